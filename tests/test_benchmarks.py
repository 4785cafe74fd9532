"""The benchmarks' own arithmetic: the roofline's golden figures, counts, records, the table."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers
from tiny import make_generator, make_model

FOLDER = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(FOLDER))

import generate  # noqa: E402
import measures  # noqa: E402
import records  # noqa: E402
import roofline  # noqa: E402
import static_llama  # noqa: E402
import summary  # noqa: E402
import systems  # noqa: E402

TOLERANCE = 0.005  # the figures have three digits: 1.31 says no more
# model, config: ms of the transformer at batch 1; images/s at batch 64, the decoder included for
# var alone. Counted by hand from the published sizes for 4.8 TB/s and 790 TFLOP/s.
GOLDEN = {
    ("var", "d16"): (1.31, 797),
    ("var", "d30"): (8.10, 190),
    ("llamagen", "B"): (10.9, 1489),
    ("llamagen", "XL"): (82.8, 263),
    ("rar", "B"): (19.4, 719),
    ("rar", "L"): (33.9, 498),
}
DECODERS = {"var": 393.7, "llamagen": 252.7, "rar": 186.6}  # GFLOP per image


def parts_of(model, config):
    """Tokenizer and transformer of a published size, without data."""
    with torch.device("meta"):
        return systems.BUILDERS[model](config)


@pytest.mark.parametrize(("model", "config"), GOLDEN)
def test_bounds_are_the_golden_ones(model, config):
    tokenizer, transformer = parts_of(model, config)
    latency, rate = GOLDEN[model, config]
    one, many = (roofline.transformer_steps(transformer.config, batch) for batch in (1, 64))
    found = 1000 * roofline.bound(one, roofline.H200)
    assert found == pytest.approx(latency, rel=TOLERANCE)
    seconds = roofline.bound(many, roofline.H200)
    if model == "var":
        seconds += roofline.decoder_work(tokenizer, 64).seconds(roofline.H200)
    assert 64 / seconds == pytest.approx(rate, rel=TOLERANCE)


@pytest.mark.parametrize("model", DECODERS)
def test_decoder_flops_are_the_golden_ones(model):
    tokenizer, _ = parts_of(model, "d16" if model == "var" else "B")
    flops = roofline.decoder_work(tokenizer, 1).flops
    assert flops / 1e9 == pytest.approx(DECODERS[model], rel=0.001)


@pytest.mark.parametrize("name", ["llama", "rar", "var"])
def test_weights_of_a_step_are_those_of_the_model(name):
    model = make_model(name, "next_scale" if name == "var" else "raster")
    sizes = roofline.Sizes.of(model.config)
    matrices = {n: p.numel() for n, p in model.named_parameters() if n.endswith(".weight")}
    tables = {n: c for n, c in matrices.items() if "modulation" in n}
    steps = {n: c for n, c in matrices.items() if n.startswith(("blocks", "output"))}
    small = sum(c for n, c in steps.items() if "norm" in n)
    assert sizes.step_weights == sum(steps.values()) - small
    assert sizes.table_weights == sum(tables.values())


def test_a_slower_machine_takes_longer_and_guidance_costs():
    config = make_model("var", "next_scale").config
    steps = roofline.transformer_steps(config, 2)
    alone = roofline.transformer_steps(config, 2, guided=False)
    assert len(steps) == len(config.scales)
    assert roofline.total(alone).flops < roofline.total(steps).flops
    work = roofline.total(steps)
    slow_memory, slow_products = roofline.Machine(2.0, 1e15), roofline.Machine(1e15, 4.0)
    assert roofline.bound(steps, slow_memory) == pytest.approx(work.bytes / 2)
    assert roofline.bound(steps, slow_products) == pytest.approx(work.flops / 4)
    assert roofline.bound(steps, roofline.Machine(2.0, 4.0)) >= work.bytes / 2


def test_masked_orders_have_no_bound():
    with pytest.raises(ValueError, match="'masked'; the roofline knows"):
        roofline.Sizes.of(make_model("llama", "masked").config)


def test_percentile_and_runs():
    assert measures.percentile([3.0, 1.0, 2.0], 0.95) == 3
    assert measures.percentile([float(i) for i in range(1, 101)], 0.95) == 95
    asked = []
    calls = {name: lambda name=name: asked.append(name) for name in ("ours", "theirs")}
    times = measures.times_of(calls, 5, "cpu")
    assert {name: len(values) for name, values in times.items()} == {"ours": 5, "theirs": 3}
    assert asked[:4] == ["ours", "theirs"] * 2  # a warm-up of each, then in turn


def test_operators_and_launches_are_counted():
    x = torch.ones(3)
    assert measures.launches(lambda: (x + x, x * 2), "cpu") == {"operator_calls": 2}
    events = [
        ("cudaLaunchKernel", False),
        ("cudaGraphLaunch", False),
        ("cudaMemcpyAsync", False),
        ("void gemm", True),
        ("nvjet_tst", True),
        ("Memcpy HtoD", True),
    ]
    assert measures.count_launches(events) == {"kernels": 2, "launches": 2}


def test_shares_of_a_call_add_up():
    generator = make_generator("var", "next_scale")
    found = measures.shares(lambda: generator([0], seeds=[0]), "cpu")
    assert sum(found["parts"].values()) == pytest.approx(1, abs=0.002)
    assert sum(found["groups"].values()) == pytest.approx(1, abs=0.003)
    assert min(found["parts"].values()) > 0


def test_grouped_by_the_beginning_of_a_name():
    times = [("aten::mm", 3.0), ("aten::_softmax", 1.0), ("aten::add", 4.0), ("aten::bmm", 0.0)]
    found = measures.grouped(times)
    assert found == {"products": 0.375, "convolutions": 0, "attention": 0.125, "rest": 0.5}


def test_the_plain_loop_is_a_llama():
    sizes = (2, 32, 2, 48)
    plain = static_llama.StaticLlama(sizes, vocab_size=50, length=6).eval()
    config = transformers.LlamaConfig(
        vocab_size=50 + static_llama.NUM_CLASSES + 1,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        rms_norm_eps=1e-5,
    )
    twin = transformers.LlamaModel(config).eval()
    copy_weights(twin, plain)
    ids = torch.randint(50, (2, 6))
    for layer in plain.layers:
        layer.allocate(2, 6)
        layer.keys.fill_(9.0)  # what is not written is not seen
    with torch.no_grad():
        expected = plain.output(twin(ids).last_hidden_state)
        steps = [plain(ids[:, i : i + 1], torch.tensor([i])) for i in range(6)]
    torch.testing.assert_close(torch.stack(steps, dim=1), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def copy_weights(twin, plain):
    """From the loop's model to the library's."""
    twin.embed_tokens.weight.copy_(plain.embedding.weight)
    for theirs, ours in zip(twin.layers, plain.layers, strict=True):
        q, k, v = ours.qkv.weight.chunk(3)
        gate, up = ours.gate_up.weight.chunk(2)
        for layer, weight in (
            (theirs.self_attn.q_proj, q),
            (theirs.self_attn.k_proj, k),
            (theirs.self_attn.v_proj, v),
            (theirs.self_attn.o_proj, ours.project.weight),
            (theirs.mlp.gate_proj, gate),
            (theirs.mlp.up_proj, up),
            (theirs.mlp.down_proj, ours.down.weight),
        ):
            layer.weight.copy_(weight)


def test_the_plain_loop_makes_tokens():
    plain = static_llama.StaticLlama((1, 16, 1, 24), vocab_size=20, length=4).eval()
    for batch in (1, 3):
        ids = plain.tokens(batch)
        assert ids.shape == (batch, 4)
        assert ids.max() < 20


def test_options_that_do_not_go_together(capsys):
    assert generate.parse(["--model", "rar"]).config == "B"
    assert generate.parse(["--save"]).save == records.RESULTS
    assert generate.parse([]).save is None
    with pytest.raises(SystemExit):
        generate.parse(["--model", "var", "--gpt-fast"])
    assert "are Llamas; got --model var" in capsys.readouterr().err


def test_a_mode_that_this_version_lacks(monkeypatch):
    asked = SimpleNamespace(mode=None, device="cuda")
    monkeypatch.setattr(generate, "ImageGenerator", type("Without", (), {}))
    assert generate.mode_of(asked) == "off"
    asked.mode = "graphs"
    with pytest.raises(SystemExit, match="no compile"):
        generate.mode_of(asked)
    monkeypatch.setattr(generate, "ImageGenerator", type("With", (), {"compile": None}))
    asked.mode = None
    assert generate.mode_of(asked) == "graphs"
    assert generate.mode_of(SimpleNamespace(mode=None, device="cpu")) == "off"


def test_a_record_says_what_it_is_of_and_replaces_its_like(tmp_path, monkeypatch):
    monkeypatch.setenv("COMMIT", "abc")
    record = records.about("var-d16", "cpu")
    assert record["commit"] == "abc"
    assert record["command"].startswith("python ")
    record |= {"device_name": "NVIDIA H200", "versions": {"torch": "2.11.0+cu130"}}
    path = records.save(record, tmp_path / "new")
    assert path.name == "var-d16_nvidia-h200_torch2.11.0.json"
    assert records.save({**record, "rows": []}, path.parent) == path
    assert json.loads(path.read_text())["rows"] == []


def row(batch, ms, **more):
    """As ``generate.one_row`` makes one."""
    return {
        "batch": batch,
        "dtype": "bfloat16",
        "mode": "graphs",
        "ms_per_image": ms,
        "p95_ms_per_image": ms,
        "images_per_second": 1000 / ms,
        "roofline": {"ratio": 2.0},
        **more,
    }


def test_the_table_says_which_aims_are_met(tmp_path):
    first = {"model": "var-d16", "rows": [row(1, 3.9, ratio=9.9), row(64, 2.5, ratio=2.1)]}
    other = {"model": "llamagen-B", "rows": [row(1, 22.1), row(8, 5.0)]}
    lines = summary.lines_of([first, other])
    assert [line["met"] for line in lines] == [True, False, False, None]
    assert [line["met "] for line in lines] == [False, True, None, None]
    text = summary.table(lines)
    assert text.count("\n") == 5
    assert "| var-d16 | 1 | bfloat16 | graphs | 3.9 | 3.9 |" in text
    assert "peak GB" not in text
    for name, record in (("a", first), ("b", {"rows": [{"dtype": "x"}]}), ("c", [])):
        (tmp_path / f"{name}.json").write_text(json.dumps(record))
    assert summary.records_in(tmp_path) == [first]


def test_the_suite_refuses_to_keep_a_smoke_run(tmp_path):
    script = FOLDER / "gpu_suite.sh"
    done = subprocess.run(
        ["bash", str(script), "--smoke"],
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin"},
    )
    assert done.returncode == 2
    assert "name a folder for its files" in done.stderr
    subprocess.run(["bash", "-n", str(script)], check=True)
