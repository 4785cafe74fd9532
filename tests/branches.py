"""What a branch of the loop predicts, apart from the loop."""


def guided_logits(branch, inputs, step, batch):
    """Guided logits of one step, of the tokens' first part."""
    return branch.mixed(branch.hidden(inputs, step, batch), step, batch)
