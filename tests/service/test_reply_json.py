import json

import pytest

from service.http.replies import as_json


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_json_has_not_is_no_reply(value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        as_json({"score": [value]})


def test_names_may_have_any_word_and_letter() -> None:
    reply = {
        "part_id": "NaN Infinity",
        "camera_id": 'Gehäuse "17"\\ \u2028 𝄞',
        "score": 0.1 + 0.2,
        "regions": [],
        "by": None,
    }
    for one in (reply, reply | {"part_id": None}):
        assert json.loads(as_json(one)) == one
        assert as_json(one) == json.dumps(one, ensure_ascii=False, separators=(",", ":")).encode()
