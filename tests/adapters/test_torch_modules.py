"""Modules of PyTorch, Lightning and pythae, with the real packages."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from sklearn_vae.adapters import from_pythae, from_torch
from sklearn_vae.diagnostics import diagnose, entropy_bound, kl_per_dimension
from tests.adapters.models import PlainVAE, rows


def elbo_by_hand(module, X, noise_variance, n=2000):
    """ELBO from random draws, by a loop as people write it."""
    x, total = torch.from_numpy(X), []
    module.eval()
    with torch.no_grad():
        mu, logvar = module.encode(x)
        kl = -0.5 * (1 + logvar - mu**2 - logvar.exp()).sum(1)
        for _ in range(n):
            z = mu + torch.exp(0.5 * logvar) * torch.randn_like(mu)
            error = (x - module.decode(z)).square().sum(1)
            log_p = -0.5 * (error / noise_variance + 8 * np.log(2 * np.pi * noise_variance))
            total.append((log_p - kl).mean().item())
    return np.mean(total), np.std(total) / np.sqrt(n)


def test_a_plain_module_has_the_bound_of_a_loop():
    module = PlainVAE()
    expected, error = elbo_by_hand(module, rows(), 0.7)
    model = from_torch(module, noise_variance=0.7)
    assert model.score(rows()) == pytest.approx(expected, abs=5 * error + 0.01)
    assert model.name == "PlainVAE"
    assert model.n_layers == 2


def test_the_module_is_evaluated_without_dropout_and_stays_in_its_mode():
    module = PlainVAE().train()
    module.fc_mu.eval()
    model = from_torch(module, noise_variance=0.7)
    assert model.score(rows()) == model.score(rows())
    assert module.training
    assert module.decoder[2].training
    assert not module.fc_mu.training
    assert all(p.requires_grad for p in module.parameters())


def test_an_adapter_follows_its_module():
    module = PlainVAE()
    model = from_torch(module, noise_variance=0.7)
    before = model.score(rows())
    with torch.no_grad():
        module.fc_mu.bias += 1.0
    assert model.score(rows()) != before


def test_single_precision_follows_the_module():
    model = from_torch(PlainVAE(dtype=torch.float32), noise_variance=0.7)
    assert model.transform(rows()).dtype == np.float32
    assert kl_per_dimension(model, rows()).dtype == np.float64
    expected = from_torch(PlainVAE(dtype=torch.float32).double(), noise_variance=0.7)
    np.testing.assert_allclose(model.score(rows()), expected.score(rows()), rtol=1e-5)


class Heads(nn.Module):
    """Encoder, heads and decoder without methods, as in Lightning's examples."""

    def __init__(self, plain):
        super().__init__()
        self.encoder = nn.Sequential(plain.hidden, nn.ReLU())
        self.fc_mu, self.fc_var = plain.fc_mu, plain.fc_logvar
        self.decoder = plain.decoder


def test_an_encoder_with_heads_needs_no_method():
    plain = PlainVAE()
    expected = from_torch(plain, noise_variance=0.7).score_samples(rows())
    model = from_torch(Heads(plain), noise_variance=0.7)
    np.testing.assert_allclose(model.score_samples(rows()), expected)


def test_functions_and_names_are_accepted():
    plain = PlainVAE()
    expected = from_torch(plain, noise_variance=0.7).score_samples(rows())
    model = from_torch(
        plain, encode=lambda x: plain.encode(x), decode="decoder", noise_variance=0.7
    )
    np.testing.assert_allclose(model.score_samples(rows()), expected)


def test_adapters_are_copied_and_pickled_with_their_module():
    model = from_torch(PlainVAE(), noise_variance=0.7)
    expected = model.score_samples(rows())
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(other.score_samples(rows()), expected)


def test_what_is_missing_is_named():
    with pytest.raises(TypeError, match=r"must be a torch.nn.Module, got int"):
        from_torch(3)
    with pytest.raises(TypeError, match=r"Linear has no encode or encoder. Pass a function"):
        from_torch(nn.Linear(2, 2))
    with pytest.raises(TypeError, match=r"PlainVAE has no generate\. .* as decode"):
        from_torch(PlainVAE(), decode="generate")


def lightning_module():
    lightning = pytest.importorskip("lightning.pytorch")

    class LitVAE(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.vae = PlainVAE(dtype=torch.float32)

        def encode(self, x):
            return self.vae.encode(x)

        def decode(self, z):
            return self.vae.decode(z)

        def training_step(self, batch, index):
            (x,) = batch
            mu, logvar = self.encode(x)
            z = mu + torch.exp(0.5 * logvar) * torch.randn_like(mu)
            kl = -0.5 * (1 + logvar - mu**2 - logvar.exp()).sum(1).mean()
            return (self.decode(z) - x).square().sum(1).mean() + kl

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), 3e-3)

    return lightning, LitVAE()


def train_with_lightning(callbacks=(), epochs=2):
    lightning, module = lightning_module()
    data = torch.utils.data.TensorDataset(torch.from_numpy(rows()).float())
    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
    )
    trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=50))
    return trainer, module


@pytest.mark.filterwarnings("ignore")  # those of Lightning
def test_a_lightning_module_is_a_module():
    _, module = train_with_lightning()
    model = from_torch(module, noise_variance=0.5)
    assert model.name == "LitVAE"
    expected, error = elbo_by_hand(module.double(), rows(), 0.5)
    model = from_torch(module, noise_variance=0.5)
    assert model.score(rows()) == pytest.approx(expected, abs=5 * error + 0.01)
    assert diagnose(model, rows()).estimator == "LitVAE"


def pythae_model(kind, loss="mse", **options):
    models = pytest.importorskip("pythae.models")
    torch.manual_seed(0)
    config = getattr(models, f"{kind}Config")(
        input_dim=(1, 2, 4), latent_dim=2, reconstruction_loss=loss, **options
    )
    return getattr(models, kind)(config)


def unit_rows():
    X = rows()
    return ((X - X.min(axis=0)) / np.ptp(X, axis=0)).astype(np.float32)


@pytest.mark.some(2, "slow")
@pytest.mark.parametrize("kind", ["VAE", "BetaVAE", "IWAE", "VAMP"])
@pytest.mark.parametrize("loss", ["mse", "bce"])
def test_the_loss_of_pythae_is_the_bound_of_its_adapter(kind, loss):
    options = {"beta": 3.0} if kind == "BetaVAE" else {}
    options |= {"number_components": 4} if kind == "VAMP" else {}
    options |= {"number_samples": 1} if kind == "IWAE" else {}
    model = pythae_model(kind, loss, **options)
    X = unit_rows()
    adapted = from_pythae(model)
    data = {"data": torch.from_numpy(X).repeat(50, 1).reshape(-1, 1, 2, 4)}
    torch.manual_seed(0)
    with torch.no_grad():
        outputs = [model(data) for _ in range(10)]
    reconstruction = np.mean([output.recon_loss.item() for output in outputs])
    kl = np.mean([output.reg_loss.item() for output in outputs])
    if kind == "VAMP":  # pythae drops constants of both densities, which cancel
        assert "The prior is not normal" in str(diagnose(adapted, X))
    beta = options.get("beta", 1.0)
    constant = 0.0
    if loss == "mse":
        # Half the squared error is that of sigma2 = 1, so beta times the KL is that of beta.
        assert adapted.noise_variance_ == beta
        constant, reconstruction = 4 * np.log(2 * np.pi * beta), reconstruction / beta
    assert adapted.kl_weight == (beta if loss == "bce" else 1.0)
    assert adapted.score(X) == pytest.approx(-(reconstruction + kl + constant), abs=0.02)


def test_pythae_reports_say_what_the_objective_was():
    report = diagnose(from_pythae(pythae_model("IWAE", number_samples=3)), unit_rows())
    assert "importance-weighted bound" in str(report)
    model = from_pythae(pythae_model("VAE"))
    assert model.image_shape == (1, 2, 4)
    assert entropy_bound(model, unit_rows()).elbo == pytest.approx(model.score(unit_rows()))


def test_other_models_of_pythae_are_refused():
    with pytest.raises(TypeError, match="one of the pythae models VAE, BetaVAE, IWAE, VAMP, got"):
        from_pythae(PlainVAE())
    models = pytest.importorskip("pythae.models")
    autoencoder = models.AE(models.AEConfig(input_dim=(1, 2, 4), latent_dim=2))
    with pytest.raises(TypeError, match="got AE"):
        from_pythae(autoencoder)
