"""Losses as pure functions of tensors.

One convention: natural logarithm and nats, sums over classes, means over the batch, KL times T^2;
every loss is minimised as it is returned.
"""

from raykd.losses.adversarial import disagreement, gap, masked_disagreement, patch_fake, patch_real
from raykd.losses.distillation import kd_divergence
from raykd.losses.inversion import (
    Average,
    activation,
    bn_divergence,
    bn_relative,
    bn_statistics,
    gini,
    identity,
    image_l2,
    information_entropy,
    lq,
    mutual_information,
    onehot,
    onehot_distance,
    per_sample_entropy,
    shannon,
    total_variation,
)
from raykd.losses.teacher_free import label_smoothing, virtual_teacher

__all__ = [
    "Average",
    "activation",
    "bn_divergence",
    "bn_relative",
    "bn_statistics",
    "disagreement",
    "gap",
    "gini",
    "identity",
    "image_l2",
    "information_entropy",
    "kd_divergence",
    "label_smoothing",
    "lq",
    "masked_disagreement",
    "mutual_information",
    "onehot",
    "onehot_distance",
    "patch_fake",
    "patch_real",
    "per_sample_entropy",
    "shannon",
    "total_variation",
    "virtual_teacher",
]
