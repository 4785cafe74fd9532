"""Score a generator as it generates: no image files, and the score carries its protocol."""

from arimage import ImageGenerator, evaluate
from arimage.demo.digits import load_digits

generator = ImageGenerator.from_pretrained("digits-var")
report = evaluate(
    generator.stream_dataset("digits-1k"),
    metrics=["accuracy", "fid", "precision_recall", "copies"],
    training=load_digits()[0].pixels,
    uncertainty=True,
)
print(report.to_markdown())
