import pytest

from service.backends.cpu import describe_cpu, held_to

_ZEN3 = "processor\t: 0\nmodel name\t: AMD EPYC 7763\nflags\t\t: fpu avx avx2\n\nmodel name\t: other\n"
_ZEN4 = "model name\t: AMD EPYC 9R14\nflags\t\t: avx2 avx512f avx512_vnni avx512_bf16\n"


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [(_ZEN3, "AMD EPYC 7763, AVX2"), (_ZEN4, "AMD EPYC 9R14, AVX2, AVX-512, VNNI, bf16")],
)
def test_the_cpu_is_named_with_the_instructions_that_count(cpuinfo: str, expected: str) -> None:
    assert describe_cpu(cpuinfo, {}) == expected


def test_a_cpu_without_a_name_and_this_machines_are_described() -> None:
    assert describe_cpu("", {})
    assert describe_cpu()


def test_what_onednn_is_held_to_is_said() -> None:
    assert describe_cpu(_ZEN4, {"ONEDNN_MAX_CPU_ISA": "avx2"}).endswith("bf16, oneDNN held to AVX2")
    assert held_to({"DNNL_MAX_CPU_ISA": "AVX512_CORE"}) == "AVX512_CORE"
    assert held_to({}) is held_to({"ONEDNN_MAX_CPU_ISA": "ALL"}) is None
