"""A second start of data_prep/make_vae.py in its folder; what it makes is the demo's test."""

import fake_records
import make_vae
import pytest


def test_other_records_or_clips_are_refused(tmp_path, monkeypatch):
    class Begun(Exception):
        """It has looked at the folder, and would work now."""

    def clips(config, count):
        raise Begun

    monkeypatch.setattr(make_vae, "clips", clips)

    def go(*more):
        argv = ["make_vae.py", f"--records={folder}", f"--out={tmp_path / 'out'}", *more]
        monkeypatch.setattr(make_vae.sys, "argv", argv)
        make_vae.main()

    folder = fake_records.write(tmp_path / "one")
    for more in ((), ("--steps=9",)):  # more steps are more of the same
        with pytest.raises(Begun):
            go(*more)
    with pytest.raises(SystemExit, match="clips: was 12, is 3.*another --out"):
        go("--clips=3")
    folder = fake_records.write(tmp_path / "two", sequences=3)
    with pytest.raises(SystemExit, match="records: was .*, is "):
        go()
    assert not list((tmp_path / "out").glob(".*"))
