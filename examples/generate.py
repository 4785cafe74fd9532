"""Ten images, one per class, from a packaged preset; and the same image again from its seed."""

from arimage import ImageGenerator

generator = ImageGenerator.from_pretrained("digits-var")
output = generator(range(10), seeds=range(10), guidance_scale=2.0)
for label, image in zip(output.class_labels, output.images, strict=True):
    image.save(f"digit-{label}.png")

again = generator([7], seeds=[7], guidance_scale=2.0)
print("same ids from the same seed:", bool((again.ids[0] == output.ids[7]).all()))
