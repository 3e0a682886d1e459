"""axe finds nothing to mend on our pages, in light and dark, narrow and wide."""

import importlib.resources

import browser
import fake_samples
import pytest
import report_page

from syncmv4d_jax.results.web import listing as listings

pytestmark = pytest.mark.browser
PROBE = """
%s
const settled = new Promise(done => setTimeout(done, 300));
settled.then(() => axe.run(document, {resultTypes: ["violations"]})).then(result => ({
  rules: result.passes.length,
  dark: matchMedia("(prefers-color-scheme: dark)").matches,
  width: innerWidth,
  ready: document.body.dataset.ready,
  wrong: result.violations.map(v => [v.id, ...v.nodes.map(n => n.html.slice(0, 120))]),
}))"""


def check(text, profile, width, scheme):
    package = pytest.importorskip("axe_core_python", reason="no axe: pip install axe-core-python")
    axe = importlib.resources.files(package).joinpath("axe.min.js").read_text("utf-8")
    found = browser.browse(text, PROBE % axe, profile, width=width, scheme=scheme)
    assert (found["dark"], found["width"]) == (scheme == "dark", width)
    assert found.get("ready") == ("1" if 'id="play"' in text else None)
    assert found["wrong"] == [] and found["rules"] > 15


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    report_page.page(path, 3)
    return path.read_text()


@pytest.fixture(scope="module")
def listing(tmp_path_factory):
    root = tmp_path_factory.mktemp("root")
    for name in ("a", "b"):
        fake_samples.write(root / "run/samples", name, fake_samples.truth(0))
    (root / "run/metrics.jsonl").write_text('{"step": 7, "loss": 0.5}\n')
    (root / "run/report.html").write_text("")
    return listings.listing(root)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1400])
def test_the_report_is_accessible(report, tmp_path, width, scheme):
    check(report, tmp_path / "profile", width, scheme)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_list_of_runs_is_accessible(listing, tmp_path, scheme):
    check(listing, tmp_path / "profile", 1400, scheme)


def test_a_sample_of_videos_alone_is_accessible(tmp_path):
    left = fake_samples.VIDEO_ONLY
    fake_samples.write(tmp_path, "a", fake_samples.truth(0), leave_out=left)
    text = listings.sample_page(tmp_path / "a")
    check(text, tmp_path / "profile", 390, "light")


def test_axe_sees_a_fault(listing, tmp_path):
    with pytest.raises(AssertionError, match="image-alt"):
        check(listing.replace("<h1>", '<img src="data:,"><h1>'), tmp_path / "p", 1400, "light")
