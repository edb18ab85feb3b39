"""The small methods of the other tests, on the device."""

from dataclasses import replace
from typing import Any

import torch

from raykd.config.runtime import Runtime
from raykd.data.streams import TrainStream
from raykd.distributed.world import World
from raykd.methods import METHODS, Method
from raykd.methods.base import PATCHES
from tests.methods.toy import BATCH, SPEC, made_config, made_images, made_setting, made_teacher

AUGMENT = ("crop", "flip", "rotate", "strong", "resized_crop")

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "supervised": ("supervised", {}),
    "label_smoothing": ("label_smoothing", {}),
    "kd": ("kd", {}),
    "kd_cutmix": ("kd", {"mix": "cutmix"}),
    "kd_mixup": ("kd", {"mix": "mixup"}),
    "tfkd_self": ("tfkd_self", {}),
    "tfkd_reg": ("tfkd_reg", {}),
    "blind_kd": ("blind_kd", {}),
    "noise": ("noise", {}),
    "dafl": ("dafl", {}),
    "dafl_remembering": ("dafl", {"ema_generator": 0.9, "replay": {"images": 12}, "output_range": "pixels"}),
    "lsgdfd": ("lsgdfd", {}),
    "lsgdfd_global": ("lsgdfd", {"statistics": "global", "output_range": "learned"}),
    "lsgdfd_single": ("lsgdfd_single", {}),
    "lsgdfd_single_unconditional": ("lsgdfd_single", {"conditional": False, "output_range": "pixels"}),
    "bank_kd": ("bank_kd", {}),
    "bank_kd_jitter": ("bank_kd", {"jitter": 0.2}),
    "mosaickd": ("mosaickd", {}),
    "adversarial": ("adversarial", {}),
    "adversarial_moments": (
        "adversarial",
        {
            "moment_weight": 1.0, "onehot_weight": 1.0, "balance_weight": 1.0, "disagreement": "masked_kl",
            "student_loss": "kl", "self_paced": {"start": 1.0, "growth": 0.1}, "clip_norm": 1.0,
            "student_statistics": "running", "latents": "shared",
        },
    ),
    "adversarial_attention": (
        "adversarial", {"attention_weight": 1.0, "first": "generator", "generator_architecture": "mosaic"},
    ),
    "pixel_inversion": ("pixel_inversion", {"images": 8}),
    "pixel_inversion_views": (
        "pixel_inversion",
        {
            "images": 8, "crop": {"schedule": "curriculum", "per": "image"}, "flip": True, "roll": 2, "keep": "best",
            "tv_weight": 0.1, "l2_weight": 0.1, "first_moment_factor": 10.0,
        },
    ),
    "pool_inversion": ("pool_inversion", {}),
    "pool_inversion_contrast": (
        "pool_inversion",
        {
            "meta": "none", "contrast_weight": 0.5, "contrast_memory": 24, "contrast_negatives": 16,
            "max_images": 16, "tv_weight": 0.1, "balance_weight": 0.1, "keep": "last",
        },
    ),
    "pool_inversion_labels": (
        "pool_inversion",
        {"latent": "classifier", "meta": "none", "fresh_every": 2, "views": 3, "adversary": "gap", "max_images": 16,
         "eviction": "random"},
    ),
    "pool_inversion_reptile": ("pool_inversion", {"meta": "reptile", "latent": "onehot", "moments": "distance"}),
}  # fmt: skip
"""Every method as it comes, and with the switches that bring other tensors."""


def made(name: str, world: World, wave: int | None = None, **changes: Any) -> Method:
    """Return a toy method, all that it is given being where the engine would put it."""
    method, fields = VARIANTS[name]
    context = made_setting(world=world)
    networks = {role: network.to(world.device) for role, network in context.networks.items()}
    context = replace(context, networks=networks, mirrored=True, runtime=Runtime(wave=wave))
    if method == "tfkd_self":  # its teacher is the student's own architecture
        context = replace(context, networks={**networks, "teacher": made_teacher(width=4).to(world.device)})
    torch.manual_seed(context.seed + 7)
    built: Method = METHODS[method](made_config(method, **{**fields, **changes}), context)
    return built


def streams_of(method: Method) -> dict[str, TrainStream]:
    updates = method.student_updates_per_step(getattr(method, "_config", None))
    return {
        role: TrainStream(
            made_images(), SPEC, method.world, BATCH, 0, AUGMENT, per_step=1 if role == PATCHES else updates
        )
        for role in method.streams
    }


def step(method: Method, streams: dict[str, TrainStream]) -> dict[str, torch.Tensor]:
    """Make a step as the engine does, its batches included."""
    return method.step({role: stream.batch(method.steps_done) for role, stream in streams.items()})


def advance(method: Method, steps: int) -> list[dict[str, float]]:
    """Make so many steps, and tell the losses of each."""
    streams = streams_of(method)
    return [{name: value.item() for name, value in step(method, streams).items()} for _ in range(steps)]
