"""The command line on the packaged presets: what it writes, what it says to bad input."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from arimage.cli import app, main, parse_classes


def run(*arguments):
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def fails(monkeypatch, capsys, *arguments):
    """The one sentence that ``arimage ...`` prints, with exit code 2."""
    monkeypatch.setattr(sys, "argv", ["arimage", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    text = capsys.readouterr().err.strip()
    assert "\n" not in text
    assert text.startswith("arimage: ")
    return text


@pytest.mark.parametrize("model", ["digits-var", "digits-llamagen"])
def test_generate_writes_a_sheet_with_its_settings(tmp_path, model):
    sheet = tmp_path / "digits.png"
    run("generate", "--model", model, "--classes", "0-9", "--out", sheet, "--guidance-scale", 2)
    with Image.open(sheet) as image:
        record = json.loads(image.info["arimage"])
    assert record["model"] == model
    assert record["class_labels"] == list(range(10))
    assert record["seeds"] == list(range(10))
    assert record["guidance_scale"] == 2


def test_generate_into_a_folder_equals_the_sheet(tmp_path):
    run("generate", "--classes", "3,1,4", "--out", tmp_path / "folder", "--seed", 5)
    run("generate", "--classes", "1", "--out", tmp_path / "one.png", "--seed", 6)
    files = sorted((tmp_path / "folder").iterdir())
    assert [f.name for f in files] == [
        "000000_class3_seed5.png",
        "000001_class1_seed6.png",
        "000002_class4_seed7.png",
    ]
    alone = np.asarray(Image.open(tmp_path / "one.png"))[2:-2:2, 2:-2:2]
    assert np.array_equal(np.asarray(Image.open(files[1])), alone)
    assert not np.array_equal(np.asarray(Image.open(files[0])), alone)


def test_reconstruct_and_evaluate(tmp_path):
    run("generate", "--classes", "0-9", "--per-class", 3, "--out", tmp_path / "a")
    run("generate", "--classes", "0-9", "--per-class", 3, "--out", tmp_path / "b", "--seed", 50)
    files = sorted((tmp_path / "a").iterdir())[:3]
    text = run("reconstruct", *files, "--out", tmp_path / "pairs.png")
    assert text.count("PSNR") == 3
    output = run(
        "evaluate",
        tmp_path / "a",
        "--reference",
        tmp_path / "b",
        "--out",
        tmp_path / "r",
        "--metrics",
        "fid, recall",
        "--features",
        "pixels",
    )
    record = json.loads(output.strip().splitlines()[-1])
    assert [s["name"] for s in record["scores"]] == ["fid", "recall"]
    assert json.loads((tmp_path / "r" / "report.json").read_text()) == record


def test_train_on_a_folder_gives_a_generator(tmp_path):
    data, out = image_folder(tmp_path / "data"), tmp_path / "model"
    steps = ("--image-size", 16, "--tokenizer-steps", 2, "--transformer-steps", 2)
    run("train", "--data", data, "--out", out, *steps, "--order", "raster")
    run("generate", "--model", out, "--classes", "dark,1", "--out", tmp_path / "x")
    assert len(list((tmp_path / "x").iterdir())) == 2


def image_folder(folder, names=("bright", "dark"), count=4):
    """A sub-folder of random images per name; the levels follow the alphabet."""
    rng = np.random.default_rng(0)
    for level, name in zip((200, 30), names, strict=True):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(level, level + 50, (20, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


def test_train_writes_its_losses_and_its_recipe(tmp_path):
    data, out = image_folder(tmp_path / "data"), tmp_path / "model"
    steps = ("--image-size", 16, "--tokenizer-steps", 2, "--transformer-steps", 3)
    settings = ("--recipe", "var", "--set", "learning_rate=1e-3", "--set", "batch_size=4")
    text = run("train", "--data", data, "--out", out, *steps, *settings, "--seed", 7)
    assert "transformer, mean of the last 20 steps: loss " in text
    assert "scale 1 " in text
    lines = [json.loads(line) for line in (out / "losses.jsonl").read_text().splitlines()]
    assert [(x["training"], x["step"]) for x in lines] == [
        *(("tokenizer", i) for i in (1, 2)),
        *(("transformer", i) for i in (1, 2, 3)),
    ]
    first, second = lines[-1]["scale 0"], lines[-1]["scale 1"]
    assert lines[-1]["loss"] == pytest.approx((first + 4 * second) / 5, rel=1e-5)
    record = json.loads((out / "recipe.json").read_text())
    transformer = record["transformer"]
    assert (transformer["steps"], transformer["seed"], transformer["batch_size"]) == (3, 7, 4)
    assert transformer["schedule"]["name"] == "FlatThenLinear"
    assert transformer["learning_rate"] == 1e-3
    assert record["tokenizer"]["steps"] == 2
    assert record["data"]["class_names"] == ["bright", "dark"]
    assert record["order"] == "next_scale"
    assert str(tmp_path) not in json.dumps(record)


@pytest.mark.parametrize("recipe", ["llamagen", "rar"])
def test_next_token_recipes_train_their_family_in_raster_order(tmp_path, recipe):
    data, out = image_folder(tmp_path / "data"), tmp_path / "model"
    steps = ("--image-size", 16, "--tokenizer-steps", 2, "--transformer-steps", 4)
    run("train", "--data", data, "--out", out, *steps, "--recipe", recipe)
    record = json.loads((out / "recipe.json").read_text())
    assert record["order"] == "raster"
    assert record["transformer"]["anneal_end"] == {"llamagen": 0.0, "rar": 0.75}[recipe]
    config = json.loads((out / "transformer" / "config.json").read_text())
    assert config["model_type"] == f"arimage_{record['transformer']['family']}"
    run("generate", "--model", out, "--classes", "dark,bright", "--out", tmp_path / "o.png")


def test_tokens_made_once_train_as_often_as_wanted(tmp_path):
    data, tokens = image_folder(tmp_path / "data"), tmp_path / "tokens"
    text = run("tokens", "--data", data, "--out", tokens, "--jittered-copies", 1)
    assert "8 images of 2 classes, 2 variants of each" in text
    shutil.rmtree(data)
    steps = ("--transformer-steps", 2, "--set", "batch_size=4")
    run("train", "--tokens", tokens, "--out", tmp_path / "new", *steps)
    run("train", "--tokens", tokens, "--from", "digits-var", "--out", tmp_path / "tuned", *steps)
    for name in ("new", "tuned"):
        record = json.loads((tmp_path / name / "recipe.json").read_text())
        assert record["data"]["augmentation"]["jittered_copies"] == 1
        assert record.get("from") == {"new": None, "tuned": "digits-var"}[name]
        sheet = tmp_path / f"{name}.png"
        run("generate", "--model", tmp_path / name, "--classes", "dark,bright", "--out", sheet)
        assert sheet.is_file()


def test_fine_tuning_on_images_equals_fine_tuning_on_their_tokens(tmp_path):
    data, tokens = image_folder(tmp_path / "data"), tmp_path / "tokens"
    run("tokens", "--data", data, "--out", tokens, "--model", "digits-llamagen")
    common = ("--from", "digits-llamagen", "--transformer-steps", 2, "--set", "batch_size=4")
    run("train", "--data", data, "--out", tmp_path / "a", *common)
    run("train", "--tokens", tokens, "--out", tmp_path / "b", *common)
    names = ("losses.jsonl", "transformer/model.safetensors", "recipe.json", "model_index.json")
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--data DATA --tokens TOKENS", ["--data", "--tokens", "not both"]),
        ("", ["--data", "--tokens"]),
        ("--tokens TOKENS --from digits-llamagen", ["made by the tokenizer", "arimage tokens"]),
        ("--tokens TOKENS --order raster", ["raster", "4 token maps", "next_scale"]),
        ("--tokens TOKENS --tokenizer-steps 5", ["tokenizer_steps", "leave it out"]),
        ("--tokens TOKENS --jittered-copies 2", ["arimage tokens"]),
        ("--tokens DATA", ["tokens.safetensors", "arimage tokens"]),
        ("--data DATA --from digits-var --order raster", ["raster", "next_scale", "leave it out"]),
        ("--data DATA --from digits-llamagen --order masked", ["masked", "raster"]),
        ("--data DATA --from digits-var --image-size 64", ["image_size", "--from"]),
        ("--data DATA --from digits-va", ["digits-va", "digits-var"]),
        ("--data DATA --recipe vra", ["vra", "var"]),
        ("--data DATA --recipe rar --order masked", ["masked", "'rar'", "raster, random"]),
        ("--tokens TOKENS --recipe rar", ["raster", "4 token maps"]),
        ("--data DATA --from digits-llamagen --recipe rar", ["random orders", "anneal_end to 0"]),
        ("--data DATA --set learning_rte=1", ["learning_rte", "learning_rate"]),
        ("--data DATA --set learning_rate=fast", ["fast", "number"]),
        ("--data DATA --order rastr", ["rastr", "raster"]),
        ("--data DATA --out DATA/bright/0.png", ["0.png", "file of that name"]),
    ],
)
def test_bad_training_input_gets_one_sentence_and_no_file(
    tmp_path, monkeypatch, capsys, arguments, words
):
    data, tokens, out = image_folder(tmp_path / "data", count=1), tmp_path / "tokens", "model"
    if "TOKENS" in arguments:
        run("tokens", "--data", data, "--out", tokens)
    filled = arguments.replace("DATA", str(data)).replace("TOKENS", str(tokens)).split()
    capsys.readouterr()
    steps = ("--transformer-steps", 1, "--out", tmp_path / out)
    text = fails(monkeypatch, capsys, "train", *steps, *filled)
    assert all(word in text for word in words), text
    assert not (tmp_path / out).exists()


def test_ls_names_every_preset():
    text = run("ls")
    assert "digits-var" in text
    assert "digits-llamagen" in text


@pytest.fixture
def digit(tmp_path):
    """A digit and a mask of another size, as files."""
    run("generate", "--classes", "6", "--out", tmp_path / "digits")
    (path,) = (tmp_path / "digits").iterdir()
    mask = np.zeros((100, 100), dtype=np.uint8)
    mask[:50] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    return path, tmp_path / "mask.png"


def test_edit_writes_before_mask_and_after(tmp_path, digit):
    path, mask = digit
    common = ("edit", path, path, "--mask", mask, "--class-label", 8, "--seed", 3)
    run(*common, "--out", tmp_path / "a.png", "--guidance-scale", 2)
    run(*common, "--out", tmp_path / "b.png", "--outpaint", "--paste", "--top-k", 40)
    sheets = [np.asarray(Image.open(tmp_path / name))[2:-2, 2:-2] for name in ("a.png", "b.png")]
    for sheet, outpaint in zip(sheets, (False, True), strict=True):
        assert sheet.shape == (2 * 64 + 2, 3 * 64 + 4, 3)
        assert np.array_equal(sheet[:64:2, :64:2], np.asarray(Image.open(path)))
        assert (sheet[:32, 66:130] == (0 if outpaint else 255)).all()
        assert (sheet[32:64, 66:130] == (255 if outpaint else 0)).all()
        assert not np.array_equal(sheet[:64, :64], sheet[:64, 132:])
        assert not np.array_equal(sheet[:64, 132:], sheet[66:, 132:])  # seeds count up
    assert np.array_equal(sheets[1][:32, :64], sheets[1][:32, 132:])  # pasted
    with Image.open(tmp_path / "b.png") as image:
        record = json.loads(image.info["arimage"])
    assert record["class_labels"] == [8, 8]
    assert record["seeds"] == [3, 4]
    assert (record["outpaint"], record["paste"], record["top_k"]) == (True, True, 40)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--class-label", "11"], ["11", "0 to 9", "10 for no class"]),
        (["--class-label", "1,2"], ["2 class labels for 1 images"]),
        (["--mask", "no.png"], ["no image file at no.png"]),
        (["--mask", "grey.png"], ["got mask value 128"]),
        (["--mask", "wide.png"], ["10 x 20", "32 x 32"]),
        (["--mask", "mask.png", "--mask", "mask.png"], ["2 masks for 1 images"]),
    ],
)
def test_edit_says_what_is_wrong_and_writes_nothing(
    tmp_path, monkeypatch, capsys, digit, arguments, words
):
    monkeypatch.chdir(tmp_path)
    Image.new("L", (20, 20), 128).save("grey.png")
    Image.new("L", (20, 10), 255).save("wide.png")
    masks = () if "--mask" in arguments else ("--mask", digit[1])
    text = fails(monkeypatch, capsys, "edit", digit[0], *masks, *arguments, "--out", "o.png")
    assert all(word in text for word in words), text
    assert not (tmp_path / "o.png").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "digit-var"], ["digit-var", "Did you mean", "digits-var"]),
        (["--classes", "12"], ["12", "0 to 9"]),
        (["--classes", "twelve"], ["twelve", "Known"]),
        (["--top-p", "1.5"], ["top_p", "1.5"]),
        (["--temperature", "-1"], ["temperature", "-1"]),
        (["--guidance-schedule", "linar"], ["linar", "linear"]),
        (["--num-steps", "4"], ["num_steps", "next_scale"]),
        (["--seed", "-1"], ["seed", "-1"]),
        (["--device", "abacus"], ["abacus", "use 'cpu'"]),
    ],
)
def test_bad_input_gets_one_sentence_and_no_file(tmp_path, monkeypatch, capsys, arguments, words):
    out = tmp_path / "x.png"
    text = fails(monkeypatch, capsys, "generate", "--out", out, *arguments)
    assert all(word in text for word in words), text
    assert not list(tmp_path.iterdir())


def test_unreadable_images_and_unwritable_folders(tmp_path, monkeypatch, capsys):
    text = tmp_path / "notes.png"
    text.write_text("not an image")
    message = fails(monkeypatch, capsys, "reconstruct", text, "--out", tmp_path / "o.png")
    assert "not a readable image" in message
    blocked = tmp_path / "file"
    blocked.write_text("")
    message = fails(monkeypatch, capsys, "generate", "--out", blocked / "x.png")
    assert "cannot create the folder" in message
    message = fails(monkeypatch, capsys, "train", "--data", tmp_path, "--out", tmp_path / "m")
    assert "no sub-folder" in message
    message = fails(
        monkeypatch,
        capsys,
        "train",
        "--data",
        tmp_path,
        "--out",
        tmp_path / "m",
        "--image-size",
        30,
    )
    assert "24 or 32" in message
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "notes.png"]


def test_a_missing_extra_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    message = fails(monkeypatch, capsys, "demo", "--out", tmp_path)
    assert "sklearn" in message
    assert "pip install 'arimage[demo]'" in message


def test_parse_classes():
    assert parse_classes("0-3, 7,cat") == [0, 1, 2, 3, 7, "cat"]
    for text in ("", " , ", "9-0"):
        with pytest.raises(ValueError, match="for example"):
            parse_classes(text)


def test_the_installed_command_answers():
    done = subprocess.run(
        [sys.executable, "-m", "arimage.cli", "ls"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
