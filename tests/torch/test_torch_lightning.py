"""The optimizers in Lightning, whose mixed precision scales gradients and clips them."""

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
lightning = pytest.importorskip("lightning", reason="Lightning is not installed")

import rmsprop.torch  # noqa: E402

PAIRS = [(rmsprop.torch.RMSprop, torch.optim.RMSprop), (rmsprop.torch.Adagrad, torch.optim.Adagrad)]


class Model(lightning.LightningModule):
    """A line that is fitted to a few points."""

    def __init__(self, optimizer_class):
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(3, 1)
        self.optimizer_class = optimizer_class

    def training_step(self, batch, _):
        return (self.layer(batch) - 1).square().mean()

    def configure_optimizers(self):
        return self.optimizer_class(self.parameters(), lr=0.05)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("clip", [None, 0.1])
@pytest.mark.parametrize(("ours", "theirs"), PAIRS, ids=["RMSprop", "Adagrad"])
def test_training_equals_that_with_pytorchs_class(ours, theirs, clip, precision, tmp_path):
    fitted = []
    for optimizer_class in (ours, theirs):
        trainer = lightning.Trainer(
            max_epochs=2,
            accelerator="cpu",
            devices=1,
            precision=precision,
            gradient_clip_val=clip,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
        )
        fitted.append(Model(optimizer_class))
        trainer.fit(fitted[-1], torch.utils.data.DataLoader(torch.arange(24.0).reshape(8, 3) / 24, batch_size=2))
    for mine, their in zip(*(model.parameters() for model in fitted), strict=True):
        torch.testing.assert_close(mine, their)
