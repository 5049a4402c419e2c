import uuid

from service.station.ids import new_id


def test_ids_are_random_uuids() -> None:
    names = {new_id() for _ in range(1000)}
    assert len(names) == 1000
    for name in names:
        parsed = uuid.UUID(name)
        assert (parsed.version, parsed.variant, str(parsed)) == (4, uuid.RFC_4122, name)
    assert {name[19] for name in names} == set("89ab")
