"""Train a tokenizer and a transformer on images in memory, save the generator, load it again."""

from arimage import ImageGenerator
from arimage.demo.digits import load_digits
from arimage.training.generator_trainer import train_generator

train, _ = load_digits()
generator, histories = train_generator(
    train.pixels, train.labels, order="raster", tokenizer_steps=20, transformer_steps=20
)
for history in histories:
    print(f"{history.name}: loss {history.losses[0]:.3f} -> {history.losses[-1]:.3f}")
generator.save_pretrained("my-generator")
images = ImageGenerator.from_pretrained("my-generator")([0, 1, 2], seeds=0).images
print(len(images), images[0].size)
