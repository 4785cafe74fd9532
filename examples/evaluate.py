"""Score a generator as it generates: no image files, and the score carries its protocol."""

from arimage import ImageGenerator, evaluate
from arimage.demo.digits import load_digits

generator = ImageGenerator.from_pretrained("digits-var")
labels = [i % 10 for i in range(200)]
batches = (pixels for pixels, _ in generator.batches(labels, range(200), batch_size=100))

train, held_out = load_digits()
report = evaluate(
    batches,
    labels=labels,
    metrics=["accuracy", "fid", "precision", "recall", "copies"],
    reference=held_out.pixels,
    training=train.pixels,
    settings=generator.settings.to_json(),
)
print(report.to_markdown())
