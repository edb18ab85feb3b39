"""DAFL: data-free learning of student networks (Chen et al., ICCV 2019, arXiv 1904.01186).

    z ~ N(0, I)      x = G(z)      (t, f) = T(x)      p = softmax(t)      pbar = mean_i p_i
    L_oh = mean_i CE(t_i, argmax t_i)      L_a = -mean |f|      L_ie = sum_c pbar_c ln pbar_c
    G <- o L_oh + b L_ie + a L_a           S <- T^2 KL(t / T || S(x) / T)

Symbols: o = onehot_weight, b = entropy_weight, a = activation_weight, T = temperature. One forward of the teacher
serves both updates, so the student learns on the images of before the generator's update, as published.

Units: the entropy is in nats and has no 1/k; the authors' code uses log10, so b = ie / ln 10, and their paper has
1/k, so b = beta / k. The activation is a mean over all entries (the code); ``activation_reduction: sum`` is the
paper's sum over features.

Where we differ from the authors' code: the teacher's parameters are frozen (theirs collect gradients nobody uses);
the two updates are two backward passes over disjoint graphs, which gives the gradients of their single one; with
several workers pbar is that of the global batch, gradients included, while batch normalisation sees a worker's share;
where a teacher's input is far from mean 0 and variance 1, images keep to the range of pixels (``output_range``, see
`raykd.generators.output`).

``pseudo_label`` and ``entropy`` replace a term by its alternatives: distance to the one-hot vector 2 (1 - max p),
Gini 1 - |p|^2, lq sum_c p_c^q, Shannon H(p_i); per_sample -mean_i H(p_i) (which fights L_oh: it balances nothing), and
mutual_information mean_i H(p_i) - H(pbar). ``ema_generator`` and ``replay`` are those of `raykd.methods.generating`.
"""

from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from raykd import losses
from raykd.config.optim import Adam, Optimizer
from raykd.generators import Dcgan, OutputRange, choose_output
from raykd.methods.base import OUTPUT_RANGE, MethodContext, Metrics
from raykd.methods.generating import GeneratingConfig, GeneratingMethod
from raykd.methods.signs import Remark, TeacherSigns
from raykd.spec import Batch


class DaflConfig(GeneratingConfig):
    """Weights are in nats; see the module's text for the authors' units."""

    name: Literal["dafl"]
    latent_dim: int = Field(default=100, gt=0, description="size of the noise that images are made from")
    generator_width: int = Field(default=128, gt=1, description="channels of the first maps")
    onehot_weight: float = Field(default=1.0, ge=0, description="o: of the teacher's certainty")
    entropy_weight: float = Field(default=2.1715, ge=0, description="b: of classes being equally frequent")
    activation_weight: float = Field(
        default=0.1, ge=0, description="a: of large features in front of the teacher's last layer"
    )
    pseudo_label: Literal["cross_entropy", "onehot_distance", "gini", "lq", "shannon"] = Field(
        default="cross_entropy", description="how certainty is measured"
    )
    lq_exponent: float = Field(default=0.5, gt=0, lt=1, description="q of the lq pseudo-label loss")
    entropy: Literal["batch", "per_sample", "mutual_information"] = Field(
        default="batch", description="whose entropy balances the classes; the others are published variants"
    )
    activation_reduction: Literal["mean", "sum"] = Field(
        default="mean", description="over features: mean is the authors' code, sum their paper"
    )
    temperature: float = Field(default=1.0, gt=0, description="T: softens both networks' answers")
    output_range: OutputRange = OUTPUT_RANGE
    generator_optim: Optimizer = Field(
        default=Adam(name="adam", lr=2e-3),
        description="of the generator; published for MNIST with a rate of 0.2",
    )


class Dafl(GeneratingMethod):
    """Generator and student learn from the teacher alone."""

    config = DaflConfig

    def __init__(self, config: DaflConfig, context: MethodContext) -> None:
        """Build the generator and its updater; compile all three networks."""
        spec = context.spec
        output = choose_output(spec, config.output_range)
        generator = Dcgan(config.latent_dim, spec.channels, spec.size, config.generator_width, output)
        super().__init__(config, context, generator)
        self._config = config
        self._student = context.compiler(self.student)
        self._teacher = context.compiler(context.networks["teacher"])

    @classmethod
    def judge_teacher(cls, signs: TeacherSigns) -> Iterable[Remark]:
        """See whether large features mean what they do behind a ReLU."""
        if signs.negative_features:
            share = f"{100 * signs.negative_features:.0f} %"
            yield Remark(
                "without", f"its activation loss, which is made for features of a ReLU ({share} of the teacher's are "
                "below 0): method.activation_weight=0"
            )  # fmt: skip
        else:
            yield Remark("pro", "penultimate features are those of a ReLU, as its activation loss assumes")

    def step(self, batches: Mapping[str, Batch]) -> Metrics:
        """Update the generator, then the student on the same images and logits."""
        index = self.begin_step()
        config = self._config
        z = self.latents(index)
        with self.world.autocast():
            images = self._generate(z)
            teacher_logits, features = self._teacher(images)
        teacher_logits = teacher_logits.float()
        onehot = self._onehot(teacher_logits)
        entropy = self._entropy(teacher_logits)
        activation = losses.activation(features.float(), config.activation_reduction == "sum")
        self.updaters["generator"].minimise(
            config.onehot_weight * onehot + config.entropy_weight * entropy + config.activation_weight * activation
        )
        self.follow_generator()
        self.context.clock.charge("synthesis")
        shown, answers = images.detach(), teacher_logits.detach()
        if self.shows_others:
            shown = self.shown(shown, index)
            with torch.no_grad(), self.world.autocast():
                answers = self._teacher(shown)[0].float()
        with self.world.autocast():
            student_logits = self._student(shown)
        kd = self.sources * losses.kd_divergence(student_logits.float(), answers, config.temperature)
        self.updaters["student"].minimise(kd)
        return {
            "loss/onehot": onehot,
            "loss/entropy": entropy,
            "loss/activation": activation,
            "loss/kd": kd,
        }

    def _onehot(self, teacher_logits: Tensor) -> Tensor:
        if self._config.pseudo_label == "lq":
            return losses.lq(teacher_logits, self._config.lq_exponent)
        alternatives = {
            "cross_entropy": losses.onehot,
            "onehot_distance": losses.onehot_distance,
            "gini": losses.gini,
            "shannon": losses.shannon,
        }
        return alternatives[self._config.pseudo_label](teacher_logits)

    def _entropy(self, teacher_logits: Tensor) -> Tensor:
        if self._config.entropy == "per_sample":
            return losses.per_sample_entropy(teacher_logits)
        if self._config.entropy == "mutual_information":
            return losses.mutual_information(teacher_logits, self.world.mean)
        return losses.information_entropy(teacher_logits, self.world.mean)
