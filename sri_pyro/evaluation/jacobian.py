r"""The paper's evidence estimator (``jacobian``), for fidelity: it refuses where it is not valid.

Axes: S draws, B sentences, D latent dimensions. Nats throughout.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sri_pyro.evaluation.evidence import Weighted, all_rows, require_samples, score
from sri_pyro.numerics.folding import step_map
from sri_pyro.target import Inference, Target


@dataclass(frozen=True)
class JacobianImportance:
    r"""The paper's estimator (``jacobian``): the density of z_K with the noise held fixed.

    .. math:: \log w = \log p(x, z_K) - \log p(z_0) + \sum_k \log |\det(I + s_k H(z_k))|

    This is the density of z_K *given the noise*, not that of z_K: the weights are unbiased only while every
    step is one-to-one, and at useful step sizes their variance is infinite. Where :math:`I + s_k H` is not
    positive definite a step folds, :math:`|\det|` over-states p(x), and the estimator refuses to give a number.
    Costs one Hessian more per step. Never a headline.

    Attributes:
        num_samples: S, runs for each sentence; the authors' release uses 10.

    References:
        Pang et al. (2021), Eqs. 14-18.
    """

    num_samples: int = 10

    def __post_init__(self) -> None:
        require_samples(self.num_samples)

    def __call__(self, target: Target, inference: Inference) -> list[tuple[Tensor, Weighted]]:
        """Weights along recorded paths."""
        draws = inference(target, self.num_samples)
        if "path" not in draws.info or "step_size" not in draws.info:
            raise ValueError(
                "the estimator 'jacobian' needs the path of a run whose steps are maps of z alone; use the "
                "inference 'short_run' with record_path = true and the integrator 'ula' or 'lm'."
            )
        path, steps = draws.info["path"], draws.info["step_size"]
        start, end = path[:, :, 0], path[:, :, -1]
        log_det = torch.zeros(start.shape[:-1], dtype=torch.float64, device=start.device)
        negative = torch.zeros(start.shape[:-1], dtype=torch.bool, device=start.device)
        smallest = torch.full_like(log_det, torch.inf)
        for k in range(steps.shape[2]):
            fold = step_map(target.hessian(path[:, :, k]), float(steps[0, 0, k]))
            log_det += fold.log_abs_det
            negative ^= fold.negative
            smallest = torch.minimum(smallest, fold.smallest_eigenvalue)
        with torch.no_grad():
            weighted = score(target, end, target.log_prior(start) - log_det)
        smallest = smallest.amin(0)
        # A step that is not positive definite folds even where an even number of directions flip and the
        # determinant stays positive.
        judged = replace(
            weighted,
            refused=smallest <= 0,
            negative_share=negative.double().mean(0),
            smallest_eigenvalue=smallest,
        )
        return [(all_rows(end), judged)]
