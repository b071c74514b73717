import pytest

from laconic.measure import joules, meter


def zone(root, folder, name, microjoules=0, most=999_999):
    """Write the files of one power zone, as the kernel shows them."""
    (root / folder).mkdir(parents=True)
    for file, content in {"name": name, "energy_uj": microjoules, "max_energy_range_uj": most}.items():
        (root / folder / file).write_text(f"{content}\n")
    return root / folder / "energy_uj"


def test_packages_and_memory_are_metered_and_their_parts_are_not(tmp_path):
    counters = [
        zone(tmp_path, "intel-rapl:0", "package-0"),
        zone(tmp_path, "intel-rapl:0:0", "core"),
        zone(tmp_path, "intel-rapl:0:1", "dram"),
        zone(tmp_path, "intel-rapl:1", "psys"),
        zone(tmp_path, "intel-rapl-mmio:0", "package-0"),
    ]
    found = meter(powercap=tmp_path)
    before = found.joules()
    for counter, microjoules in zip(counters, (500_000, 1, 250_000, 2, 3), strict=True):
        counter.write_text(f"{microjoules}\n")
    assert found.joules() - before == 0.75


def test_a_counter_that_starts_again_still_grows(tmp_path):
    counter = zone(tmp_path, "intel-rapl:0", "package-0", microjoules=900_000)
    found = meter(powercap=tmp_path)
    before = found.joules()
    counter.write_text("100000\n")
    assert found.joules() - before == 0.2
    counter.write_text("50000\n")
    assert found.joules() - before == pytest.approx(1.15)


def test_a_machine_without_zones_has_no_meter(tmp_path):
    assert meter(powercap=tmp_path) is None
    assert meter(powercap=tmp_path / "absent") is None


def test_counters_that_cannot_be_read_are_no_meter(tmp_path):
    counter = zone(tmp_path, "intel-rapl:0", "package-0")
    counter.unlink()
    counter.mkdir()  # reading it fails for root as well
    assert meter(powercap=tmp_path) is None


def test_joules_are_those_of_one_call(tmp_path):
    counter = zone(tmp_path, "intel-rapl:0", "package-0", most=10**12)
    calls = []

    def call():
        calls.append(0)
        counter.write_text(f"{len(calls) * 2_000_000}\n")  # each call takes 2 J

    assert joules(call, meter(powercap=tmp_path), seconds=0.01) == pytest.approx(2.0)


def test_a_call_longer_than_the_time_is_metered_once(tmp_path):
    counter = zone(tmp_path, "intel-rapl:0", "package-0", most=10**12)
    calls = []
    joules(lambda: calls.append(counter), meter(powercap=tmp_path), seconds=0)
    assert len(calls) == 2  # the first warms up
