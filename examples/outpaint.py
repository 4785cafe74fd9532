"""A digit on a wider canvas, drawn outwards window by window; and another grid than trained."""

from arimage import ImageGenerator
from arimage.demo.digits import load_digits

generator = ImageGenerator.from_pretrained("digits-llamagen")
six = load_digits()[1].pixels[1]
wide = generator.outpaint(six, class_labels=6, left=16, right=32, seeds=[10])
wide.images[0].save("wide.png")
print(f"{wide.ids.shape[1]} tokens: wide.png")
tall = generator.at([(6, 4)])(class_labels=[6], seeds=[10])
tall.images[0].save("tall.png")
print(f"{tall.ids.shape[1]} tokens: tall.png")
