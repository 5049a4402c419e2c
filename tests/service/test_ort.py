import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from service.backends.opening import open_backend
from service.bundle.folder import read_bundle


def test_a_model_that_rested_gives_the_same_and_less_memory_is_taken(demo: Path) -> None:
    """In a process of its own: what others have freed would be taken first."""
    program = (
        "import sys; from pathlib import Path; import numpy as np\n"
        "from service import memory\n"
        "from service.backends.opening import open_backend\n"
        "from service.bundle.folder import read_bundle\n"
        "def resident():\n"
        "    memory.give_back()\n"
        "    return int(Path('/proc/self/statm').read_text().split()[1])\n"
        "backend = open_backend(read_bundle(Path(sys.argv[1])), 'ort-cpu', precision='fp32', threads=1)\n"
        "image = np.zeros((1, 256, 256, 3), np.uint8)\n"
        "before, taken = backend.run(image), resident()\n"
        "backend.rest()\n"
        "rested, after = resident(), backend.run(image)\n"
        "assert all(map(np.array_equal, before, after))\n"
        "print((taken - rested) * 4096 // 2**20)"
    )
    done = subprocess.run([sys.executable, "-c", program, demo], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 10


@pytest.mark.parametrize(("threads", "lanes"), [(1, 1), (2, 2), (3, 2)])
def test_images_side_by_side_give_what_each_gives_alone(demo: Path, threads: int, lanes: int) -> None:
    backend = open_backend(read_bundle(demo), "auto", threads=threads)
    assert backend.lanes == lanes
    images = np.random.default_rng(0).integers(0, 256, (8, 256, 256, 3), np.uint8)
    alone = [backend.run(image[None]) for image in images]
    with ThreadPoolExecutor(lanes) as pool:
        together = list(pool.map(lambda image: backend.run(image[None]), images))
    for (map_alone, score_alone), (map_together, score_together) in zip(alone, together, strict=True):
        np.testing.assert_allclose(map_together, map_alone, atol=1e-5)
        np.testing.assert_allclose(score_together, score_alone, atol=1e-5)
    backend.close()
