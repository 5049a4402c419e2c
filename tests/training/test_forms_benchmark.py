import torch

from training.benchmarks.forms import FORMS


def test_every_form_gives_a_distance_to_each_position_and_low_rank_no_larger_one() -> None:
    generator = torch.Generator().manual_seed(0)
    good = torch.randn((6, 8, 8, 176), generator=generator)
    image = torch.randn((2, 8, 8, 176), generator=generator) * 2
    found = {}
    for name, form in FORMS.items():
        with torch.inference_mode():
            found[name] = form(good, torch.Generator().manual_seed(0))(image)
        assert found[name].shape == (2, 8, 8), name
        assert torch.isfinite(found[name]).all(), name
        assert found[name].min() > 0, name
    whole = found["padim: 100 channels (the preset)"]
    part = found["padim: 100 channels, 32 directions a position"]
    assert (part <= whole * 1.001).all()
    # Few photos: the directions in which they do not vary at all carry nearly all of the distance.
    assert (part > 0.5 * whole).all()
    torch.testing.assert_close(found["padim: 100 channels, whitening in float16"], whole, rtol=1e-2, atol=0)
