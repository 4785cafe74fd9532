"""Images to tokens and back: what a tokenizer keeps."""

from arimage import ImageGenerator
from arimage.demo.digits import load_digits
from arimage.eval.metrics.reconstruction import psnr
from arimage.images import from_pixels, to_pixels

tokenizer = ImageGenerator.from_pretrained("digits-llamagen").tokenizer
_, held_out = load_digits()
images = from_pixels(held_out.pixels[:20])
ids = tokenizer.encode(images)
decoded = to_pixels(tokenizer.decode(ids))
print(f"{ids.shape[1]} tokens of {tokenizer.config.vocab_size} codes per image")
print(f"PSNR {psnr(held_out.pixels[:20], decoded).mean():.1f} dB")
