"""The recipe `signs`: a pretrained teacher, adapted by transfer learning, and a student that keeps what it knows."""

from pathlib import Path

import pytest

import edgekd
from edgekd import datasets
from edgekd.plugins import find


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_photos_of_hand_signs_come_through_to_the_device(tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite_pytorch", reason="pip install 'edgekd[teachers]'")
    data = find(datasets, "sign_digits")
    if not data.here():
        pytest.skip(f"the photos are not here: {data.needs}")
    result = edgekd.run("signs", "raspberry-pi-4", out=tmp_path / "run")
    summary = result.summary()
    assert summary["teacher"]["metrics"]["accuracy"] > 0.95
    assert result.ok, summary["verdicts"]
    for artifact in summary["artifacts"]:
        assert artifact["metrics"]["accuracy"] >= summary["student"]["metrics"]["accuracy"] - 0.01
