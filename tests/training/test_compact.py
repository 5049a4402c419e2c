import torch
from torch import Tensor

from training.networks.compact import CompactDraem
from training.networks.draem import Draem


def _whole_and_compact() -> tuple[Draem, CompactDraem, Tensor]:
    torch.manual_seed(0)
    return Draem(4, 4).eval(), CompactDraem(4, 4).eval(), torch.rand(2, 3, 64, 96)


def test_images_and_logits_have_the_resolution_of_the_whole() -> None:
    whole, compact, image = _whole_and_compact()
    assert [out.shape for out in compact(image)] == [out.shape for out in whole(image)]


def test_the_shortcut_through_blocks_gives_what_the_two_networks_give() -> None:
    _, compact, image = _whole_and_compact()
    reconstruction, logits = compact(image)
    torch.testing.assert_close(reconstruction, compact.reconstruct(image))
    torch.testing.assert_close(logits, compact.discriminate(reconstruction, image))


def test_the_last_layer_tells_normal_from_anomalous_for_every_pixel_of_a_block() -> None:
    _, compact, image = _whole_and_compact()
    with torch.no_grad():
        compact.last_layer.weight.zero_()
        compact.last_layer.get_parameter("bias").copy_(torch.tensor([1.0, 2, 3, 4, 5, 6, 7, 8]))
        _, logits = compact(image)
    assert logits[0, 0, :2, :2].flatten().tolist() == [1, 2, 3, 4]
    assert logits[0, 1, -2:, -2:].flatten().tolist() == [5, 6, 7, 8]


def test_the_layers_below_are_as_large_as_those_of_the_whole() -> None:
    whole, compact, _ = _whole_and_compact()
    for name, parameter in compact.reconstructive.named_parameters():
        if name.startswith(("block3", "block4", "block5")):
            assert parameter.shape == whole.reconstructive.encoder.get_parameter(name).shape
