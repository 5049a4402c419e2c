"""What a CPU runs: the runtimes that are installed, each with the precisions that it has kernels for."""

from __future__ import annotations

from importlib.util import find_spec

from service.backends.base import Backend, BackendChoice, BackendError, Candidate, PrecisionChoice
from service.backends.graphs import OnnxModel
from service.backends.plans import Plan
from service.bundle.folder import Bundle
from service.bundle.manifest import Precision


def cpu_candidates(bundle: Bundle, choice: BackendChoice, precision: PrecisionChoice) -> list[Candidate]:
    """What of the bundle can run on this machine's CPU and is what was asked for; raises BackendError for none."""
    if choice == "openvino" and not find_spec("openvino"):
        raise BackendError("openvino was asked for, it is not installed: in the checkout, pip install '.[openvino]'")
    offered = [Candidate("ort-cpu", asked) for asked in ("fp32", "int8")]
    if find_spec("openvino"):
        offered += [Candidate("openvino", asked) for asked in _openvino_precisions()]
    models = bundle.manifest.models
    found = [
        candidate
        for candidate in offered
        if candidate.precision in models and choice in ("auto", candidate.backend)
        if precision in ("auto", candidate.precision)
    ]
    if not found:
        raise BackendError(
            f"{choice} with precision {precision} was asked for: {bundle.path} has {', '.join(models)}, and this "
            f"machine's CPU runs {', '.join(map(str, offered))}"
        )
    return found


def _openvino_precisions() -> list[Precision]:
    from service.backends.openvino import has_bf16

    return ["fp32", "bf16", "int8"] if has_bf16() else ["fp32", "int8"]


def open_on_cpu(bundle: Bundle, candidate: Candidate, *, threads: int, plan: Plan) -> Backend:
    model = OnnxModel.of(bundle, candidate.precision)
    if candidate.backend == "openvino":
        from service.backends.openvino import OpenVinoBackend

        return OpenVinoBackend(model, bundle.manifest.input, candidate.precision, threads=threads, plan=plan)
    from service.backends.ort import OrtBackend

    return OrtBackend(model, bundle.manifest.input, candidate.precision, threads=threads, plan=plan)
