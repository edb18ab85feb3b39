"""What is measured: two settings of the paper, and the changes between its script and raykd."""

from dataclasses import dataclass, replace

from raykd.config.runtime import Compile, Precision


@dataclass(frozen=True)
class Case:
    """One setting of the paper, with the hyper-parameters of its script (entropy in nats).

    The batch of CIFAR-10 is 64 instead of 1024, which a CPU would take a minute for; this gives
    the generator's linear layer and its optimizer more weight than they have in the paper.
    """

    teacher: str
    student: str
    channels: int
    latent_dim: int
    batch: int
    weights: tuple[float, float, float]  # one-hot, entropy, activation
    generator_lr: float
    student_optim: dict[str, str | float]


CASES = {
    "mnist": Case("lenet5", "lenet5_half", 1, 100, 512, (1.0, 2.1715, 0.1), 0.2, {"name": "adam", "lr": 2e-3}),
    "cifar10": Case(
        "resnet34",
        "resnet18",
        3,
        1000,
        64,
        (0.05, 2.1715, 0.01),
        0.02,
        {"name": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4},
    ),
}


@dataclass(frozen=True)
class Variant:
    """One rung: the published step with some changes, or raykd's method (``method``)."""

    change: str
    frozen: bool = False
    channels_last: bool = False
    resident: bool = False
    onednn: bool = False
    product_generator: bool = False
    fused: bool = False
    method: bool = False
    compile: Compile = "off"
    precision: Precision = "fp32"


def _ladder() -> dict[str, Variant]:
    rungs = {"published": Variant("the step of the published script")}

    def add(name: str, change: str, **fields: bool | str) -> None:
        last = next(reversed(rungs.values()))
        rungs[name] = replace(last, change=change, **fields)  # type: ignore[arg-type]

    add("frozen", "+ teacher without parameter gradients", frozen=True)
    add("channels_last", "+ channels_last networks", channels_last=True)
    add("resident", "+ allocator keeps freed memory", resident=True)
    add("onednn", "+ float32 products through oneDNN", onednn=True)
    add("products", "+ generator as 9-product convolutions", product_generator=True)
    add("fused", "+ fused optimizers", fused=True)
    add("raykd", "raykd's method, eager", method=True)
    add("raykd_compiled", "raykd's method, compiled", compile="on")
    add("raykd_bf16", "option: compiled, bfloat16", precision="bf16")
    return rungs


LADDER = _ladder()

# All rungs of a ResNet-34 at once need 20 GB; the steps between are the same as for MNIST.
DEFAULT_RUNGS = {
    "mnist": tuple(LADDER),
    "cifar10": ("published", "frozen", "channels_last", "raykd", "raykd_compiled", "raykd_bf16"),
}
