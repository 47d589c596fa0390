"""The solvers of the probability-flow ODE agree with exact solutions, the papers' algorithms and EDM's recursion."""

from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from tests.test_diffusion import ALPHA_BAR, FULL, SHAPE, keys, stand_in, visited
from tests.tiny import by_noise, in_float64
from vaedm_jax.diffusion import prediction, reverse, samplers, solvers, spacing
from vaedm_jax.diffusion.chain import Chain, run_chain
from vaedm_jax.diffusion.process import FORMULATIONS
from vaedm_jax.diffusion.samplers import SAMPLERS
from vaedm_jax.diffusion.schedule import respace

# --- data with a known best predictor: x_0 of one pixel, from a mixture of Gaussians (weight, mean, variance)

GAUSSIAN = ((1.0, 0.2, 0.3),)
MIXTURE = ((0.4, -0.8, 0.1), (0.6, 0.5, 0.2))


@pytest.fixture
def float64():
    with in_float64():
        yield


def best_eps(data, u, alpha_bar, np=np):
    """Return E[eps | u] at a noise level: that of each Gaussian, weighted by how likely u is under it."""
    means, variances = ([d[i] for d in data] for i in (1, 2))
    total = [alpha_bar * v + 1 - alpha_bar for v in variances]
    off = [u - np.sqrt(alpha_bar) * m for m in means]
    likely = [w * np.exp(-(o**2) / (2 * s)) / np.sqrt(s) for (w, _, _), o, s in zip(data, off, total, strict=True)]
    eps = [np.sqrt(1 - alpha_bar) * o / s for o, s in zip(off, total, strict=True)]
    return sum(e * p for e, p in zip(eps, likely, strict=True)) / sum(likely)


def predictor(data):
    def predict_noise(u, t):
        alpha_bar = jnp.exp(jnp.interp(t, jnp.arange(1000.0), jnp.log(FULL.alpha_bar)))[:, None, None, None]
        return best_eps(data, u, alpha_bar, jnp)

    return predict_noise


def exact(data, u, levels):
    """Return the solution u [N, B] at all levels (alpha_bar), from u [B] at the first.

    The equation is d(u / sqrt(alpha_bar)) / d sigma = E[eps | u].
    """
    sigma = np.sqrt((1 - levels) / levels)

    def slope(s, x):
        return best_eps(data, x / np.sqrt(1 + s**2), 1 / (1 + s**2))

    tight = dict(method="DOP853", rtol=1e-13, atol=1e-13, t_eval=sigma)
    return solve_ivp(slope, sigma[[0, -1]], u / np.sqrt(levels[0]), **tight).y.T * np.sqrt(levels)[:, None]


def test_the_reference_solution_is_the_closed_form_on_gaussian_data():
    levels, u, (_, m, v) = ALPHA_BAR[900:20:-40], np.array([1.7, -0.4]), GAUSSIAN[0]
    spread = np.sqrt((levels * v + 1 - levels) / (levels[0] * v + 1 - levels[0]))[:, None]
    want = np.sqrt(levels)[:, None] * m + (u - np.sqrt(levels[0]) * m) * spread
    np.testing.assert_allclose(exact(GAUSSIAN, u, levels), want, rtol=1e-10)


GRIDS = {"logsnr": spacing.log_snr, "karras": spacing.karras, "sigma": partial(spacing.karras, rho=1.0)}


def end_error(build, data, n, grid, first):
    """Return the error at the end of n intervals. The first `first` of them have their exact values."""
    chain = respace(FULL, np.arange(400 if grid == "sigma" else 900))
    lambdas = np.append(chain.log_snr[[0, 5]], GRIDS[grid](chain.log_snr[-1], chain.log_snr[30], n + 1))
    schedule = respace(FULL, FULL.position(lambdas))  # two more steps at the end are not executed
    table = build(schedule)
    levels, evaluations = schedule.alpha_bar[::-1][: n + 1], n * (2 if table.nfe > n + 3 else 1)
    u = exact(data, np.array([1.7, -0.4, 0.3]), levels)
    eps = best_eps(data, u, levels[:, None])
    x_0 = (u - np.sqrt(1 - levels)[:, None] * eps) / np.sqrt(levels)[:, None]

    def image(values):
        return jnp.asarray(values).reshape(3, 1, 1, 1)

    def past(values):
        known = [image(v) for v in values[:first][::-1]]
        return tuple((known + [jnp.zeros((3, 1, 1, 1))] * 9)[: table.b.shape[1]])

    begun = (image(u[max(first - 1, 0)]), past(x_0), past(eps))
    rows = reverse.Table(*(column[first:evaluations] for column in table))
    out = reverse.reverse(by_noise(predictor(data)), rows.trimmed(), image(u[first]), None, clip=False, past=begun)
    return np.abs(np.ravel(out) - u[-1]).max()


# Solver, order, grid, number of exact starting values. UniPC's corrector adds 1 to the order that it is named after.
# iPNDM has its order if its steps are equal in sigma.
ORDERS = {
    "ddim": (samplers.ddim, 1, "logsnr", 0),
    "heun": (partial(solvers.heun, full=FULL), 2, "karras", 0),
    "dpm++2m": (partial(solvers.dpm_solver_pp, order=2), 2, "logsnr", 1),
    "dpm++3m": (partial(solvers.dpm_solver_pp, order=3), 3, "logsnr", 2),
    "unipc2": (partial(solvers.unipc, order=2), 3, "logsnr", 2),
    "unipc3": (partial(solvers.unipc, order=3), 4, "logsnr", 3),
    "ipndm": (solvers.ipndm, 4, "sigma", 3),
    "ipndm, other steps": (solvers.ipndm, 2, "karras", 3),
}


@pytest.mark.parametrize("data", [GAUSSIAN, MIXTURE], ids=["gaussian", "mixture"])
@pytest.mark.parametrize("case", ORDERS)
def test_errors_fall_with_the_order_of_the_solver(case, data, float64):
    build, order, grid, first = ORDERS[case]
    # Each solver is run with its own start and with exact starting values. Its own start has a first step of order 1.
    # The error of that step is seen at the end only if the chain starts at little noise, as on this grid of iPNDM.
    for begin, want in {0: 2 if grid == "sigma" else order, first: order}.items():
        errors = [end_error(build, data, n, grid, begin) for n in ((600, 1200) if grid == "sigma" else (200, 400))]
        measured = np.log2(errors[0] / errors[1])
        print(f"{case} from {begin}: {errors[0]:.1e}, {errors[1]:.1e}, order {measured:.2f}")
        assert measured == pytest.approx(want, abs=0.2)


# --- the algorithms of the papers as plain loops, with a predictor that is not linear


def network(u, t):
    return np.tanh(u) * 0.8 + 0.2 * t / 1000


def x_0_of(u, t, alpha_bar, clip):
    x_0 = (u - np.sqrt(1 - alpha_bar) * network(u, t)) / np.sqrt(alpha_bar)
    return np.clip(x_0, -1, 1) if clip else x_0


def levels(schedule):
    t, alpha_bar = schedule.t[::-1], schedule.alpha_bar[::-1]
    return t, alpha_bar, np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar), np.log(np.sqrt(alpha_bar / (1 - alpha_bar)))


def ddim(u, schedule, clip):
    """Run DDIM, arXiv 2010.02502, eq. 12. eps follows from u and the clipped x_0."""
    t, alpha_bar, alpha, rest, _ = levels(schedule)
    for i in range(len(t) - 1):
        x_0 = x_0_of(u, t[i], alpha_bar[i], clip)
        u = alpha[i + 1] * x_0 + rest[i + 1] * (u - alpha[i] * x_0) / rest[i]
    return x_0_of(u, t[-1], alpha_bar[-1], clip)


def dpm_solver_2m(u, schedule, clip):
    """Run DPM-Solver++(2M), arXiv 2211.01095, Algorithm 2. Both ends have first order."""
    t, alpha_bar, alpha, sigma, lam = levels(schedule)
    before, h_before = None, None
    for i in range(len(t) - 1):
        h, x_0 = lam[i + 1] - lam[i], x_0_of(u, t[i], alpha_bar[i], clip)
        D = x_0
        if before is not None:
            r = h_before / h
            D = (1 + 1 / (2 * r)) * x_0 - 1 / (2 * r) * before
        u = sigma[i + 1] / sigma[i] * u - alpha[i + 1] * (np.exp(-h) - 1) * D
        before, h_before = x_0, h
    return x_0_of(u, t[-1], alpha_bar[-1], clip)


def unipc(u, schedule, clip, p):
    """Run UniPC, arXiv 2302.04867, Algorithms 1 and 2 (on x_0), with B(h) = exp(h) - 1.

    rho is 1/2 in the cases of the paper's appendix.
    """
    t, alpha_bar, alpha, sigma, lam = levels(schedule)
    n, x_0s = len(t), []

    def system(r, h):
        """Return R_p(h) and the phi vector of theorem 3.1, divided by B. -h replaces h, since x_0 is estimated."""
        hh = -h
        phi, vector, factorial = np.expm1(hh) / hh - 1, [], 1
        for k in range(1, len(r) + 1):
            vector.append(phi * factorial / np.expm1(hh))
            factorial *= k + 1
            phi = phi / hh - 1 / factorial
        return np.array([np.array(r) ** k for k in range(len(r))]), np.array(vector)

    x_0s.append(x_0_of(u, t[0], alpha_bar[0], clip))
    for i in range(1, n):
        order = min(p, i, n - i + 1)
        h = lam[i] - lam[i - 1]
        r = [(lam[i - 1 - k] - lam[i - 1]) / h for k in range(1, order)]
        D = [(x_0s[-1 - k] - x_0s[-1]) / r[k - 1] for k in range(1, order)]
        line = sigma[i] / sigma[i - 1] * u - alpha[i] * np.expm1(-h) * x_0s[-1]
        rho = [0.5] if order == 2 else np.linalg.solve(*system(r, h)) if order > 2 else []
        predicted = line - alpha[i] * np.expm1(-h) * sum(a * d for a, d in zip(rho, D, strict=True))
        new = x_0_of(predicted, t[i], alpha_bar[i], clip)
        rho = [0.5] if order == 1 else np.linalg.solve(*system([*r, 1.0], h))
        u = line - alpha[i] * np.expm1(-h) * sum(a * d for a, d in zip(rho, [*D, new - x_0s[-1]], strict=True))
        x_0s.append(new)
    return x_0s[-1]


def ipndm(u, schedule, clip):
    """Run iPNDM, arXiv 2204.13902, appendix: Adams-Bashforth steps in sigma for x = u / sqrt(alpha_bar)."""
    t, alpha_bar, alpha, rest, _ = levels(schedule)
    sigma, x, e = rest / alpha, u / alpha[0], []
    for i in range(len(t) - 1):
        e.append((x - x_0_of(alpha[i] * x, t[i], alpha_bar[i], clip)) / sigma[i])
        slope = {
            1: lambda: e[-1],
            2: lambda: (3 * e[-1] - e[-2]) / 2,
            3: lambda: (23 * e[-1] - 16 * e[-2] + 5 * e[-3]) / 12,
            4: lambda: (55 * e[-1] - 59 * e[-2] + 37 * e[-3] - 9 * e[-4]) / 24,
        }[min(len(e), 4)]()
        x = x + (sigma[i + 1] - sigma[i]) * slope
    return x_0_of(alpha[-1] * x, t[-1], alpha_bar[-1], clip)


def edm(u, schedule, clip, noise=None, churn=0.0, low=0.0, high=np.inf, scale=1.0):
    """Run EDM, arXiv 2206.00364, Algorithm 2, with D(x; sigma) for VP networks. Churn never exceeds the first level."""

    def D(x, sigma):
        alpha_bar = 1 / (1 + sigma**2)
        t = np.interp(-np.log(alpha_bar), -np.log(FULL.alpha_bar), np.arange(1000.0))
        return x_0_of(np.sqrt(alpha_bar) * x, t, alpha_bar, clip)

    _, _, alpha, rest, _ = levels(schedule)
    t = [*(rest / alpha), 0.0]
    x, n = u / alpha[0], len(t) - 1
    for i in range(n):
        gamma = min(churn / n, np.sqrt(2) - 1) if low <= t[i] <= high and i else 0
        t_hat = min(t[i] * (1 + gamma), t[0])
        if t_hat > t[i]:
            x = x + np.sqrt(t_hat**2 - t[i] ** 2) * scale * noise(2 * i - 1)
        d = (x - D(x, t_hat)) / t_hat
        x_next = x + (t[i + 1] - t_hat) * d
        if t[i + 1]:
            d_next = (x_next - D(x_next, t[i + 1])) / t[i + 1]
            x_next = x + (t[i + 1] - t_hat) * (d + d_next) / 2
        x = x_next
    return x


CHURN = dict(churn=4.0, churn_min=0.05, churn_max=20.0, churn_noise=1.003)
ALGORITHMS = {
    "ddim": ddim,
    "dpm++2m": dpm_solver_2m,
    "unipc2": partial(unipc, p=2),
    "unipc3": partial(unipc, p=3),
    "ipndm": ipndm,
    "heun": edm,
}


def ours(u, chain, noise=None):
    """Run the chain on images of one pixel, u [B]."""

    def predict_noise(u, t):
        return jnp.tanh(u) * 0.8 + 0.2 * t[:, None, None, None] / 1000

    start = jnp.asarray(u).reshape(-1, 1, 1, 1)
    return np.ravel(reverse.reverse(by_noise(predict_noise), chain.table(FULL).trimmed(), start, noise, chain.clip))


@pytest.mark.parametrize(
    ("steps", "spread", "start", "clip"),
    [
        (1, "even", "noise", True),
        (2, "karras", "noise", False),
        (4, "logsnr", "warm", True),
        (9, "even", "warm", False),
    ],
)
@pytest.mark.parametrize("sampler", ALGORITHMS)
def test_solvers_are_the_published_algorithms(sampler, steps, spread, start, clip, float64):
    chain = Chain(sampler, steps, spacing=spread, start=start, clip=clip)
    u = np.linspace(-2, 2, 7)
    np.testing.assert_allclose(ours(u, chain), ALGORITHMS[sampler](u, chain.schedule(FULL), clip), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("clip", [True, False])
def test_churn_is_that_of_edm(clip, float64):
    chain, u = Chain("heun", 12, spacing="karras", clip=clip, **CHURN), np.linspace(-2, 2, 7)
    noise = np.random.default_rng(0).standard_normal((30, 7))
    got = ours(u, chain, lambda j: jnp.asarray(noise)[j].reshape(-1, 1, 1, 1))
    want = edm(u, chain.schedule(FULL), clip, lambda j: noise[j], *CHURN.values())
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9)
    assert np.abs(want - edm(u, chain.schedule(FULL), clip)).max() > 0.1


def test_the_stochastic_solver_follows_the_recursion_of_mean_and_variance(float64):
    """On Gaussian data every step is affine, so EDM's algorithm gives the exact mean and variance of the samples."""
    chain, n = Chain("heun", 12, spacing="karras", clip=False, **CHURN), 12
    _, m, v = GAUSSIAN[0]
    table = chain.table(FULL)
    inputs = np.concatenate([np.zeros((1, 1 + table.nfe)), np.eye(1 + table.nfe)])

    def image(values):
        return jnp.asarray(values).reshape(-1, 1, 1, 1)

    noise = image(inputs[:, 1:].T.ravel()).reshape(table.nfe, -1, 1, 1, 1)
    predict = by_noise(predictor(GAUSSIAN))
    out = np.ravel(reverse.reverse(predict, table.trimmed(), image(inputs[:, 0]), lambda j: noise[j], clip=False))
    mean, variance = out[0], np.sum((out[1:] - out[0]) ** 2)

    sigma = [*np.exp(-chain.schedule(FULL).log_snr[::-1]), 0.0]
    want_mean, want_variance = 0.0, 1 + sigma[0] ** 2  # of x = u / sqrt(alpha_bar), with u ~ N(0, 1)
    for i in range(n):
        churned = i and CHURN["churn_min"] <= sigma[i] <= CHURN["churn_max"]
        raised = min(sigma[i] * (1 + (min(CHURN["churn"] / n, np.sqrt(2) - 1) if churned else 0)), sigma[0])
        want_variance += CHURN["churn_noise"] ** 2 * (raised**2 - sigma[i] ** 2)
        h, pull = sigma[i + 1] - raised, raised / (v + raised**2)  # d = pull (x - m)
        gain = 1 + h * pull
        if sigma[i + 1]:
            gain = 1 + h / 2 * (pull + sigma[i + 1] / (v + sigma[i + 1] ** 2) * (1 + h * pull))
        want_mean, want_variance = m + gain * (want_mean - m), gain**2 * want_variance
    np.testing.assert_allclose([mean, variance], [want_mean, want_variance], rtol=1e-9)


# --- properties of all samplers


@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_nfe_is_the_number_of_calls_of_the_network(sampler, steps):
    chain = Chain(sampler, steps)
    seen, _ = visited(chain, stand_in, keys(2), SHAPE)
    assert len(seen) == chain.table(FULL).nfe == (2 * steps - 1 if sampler == "heun" else steps)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_formulation_2_needs_no_solver_of_its_own(sampler):
    """The network is shown x = u + x_hat. If it subtracts x_hat again, it gives the images of the unshifted chain."""
    chain, x_hat = Chain(sampler, 5), jnp.full((2, *SHAPE), 0.4)
    shifted = prediction.predictor(
        prediction.Eps(), FORMULATIONS["form2"], lambda x, t, x_hat: stand_in(x - x_hat, t), x_hat
    )
    got, want = (
        run_chain(chain.arrays(FULL), predict, keys(2), SHAPE, x_hat) for predict in (shifted, by_noise(stand_in))
    )
    np.testing.assert_allclose(got, want, atol=1e-4)


@pytest.mark.parametrize("n", [1, 2, 10, 100])
@pytest.mark.parametrize("start", ["noise", "warm"])
def test_logsnr_and_karras_spacings_are_even_in_their_quantity(start, n):
    last = 599 if start == "warm" else 999
    ends = np.sqrt(ALPHA_BAR[[0, last]] / (1 - ALPHA_BAR[[0, last]]))  # exp(log_snr) = 1 / sigma
    for name, even in (("logsnr", np.log), ("karras", lambda ratio: -(ratio ** (-1 / 7)))):
        schedule = Chain(steps=n, start=start, spacing=name, t_start=599).schedule(FULL)
        want = np.linspace(*even(ends), n) if n > 1 else even(ends)[1:]
        got = even(np.sqrt(schedule.alpha_bar / (1 - schedule.alpha_bar)))
        np.testing.assert_allclose(got, want, rtol=1e-9)
        assert schedule.t[-1] == pytest.approx(last) and (np.diff(schedule.t) > 0).all()


def test_the_logarithm_of_alpha_bar_is_linear_between_two_steps():
    positions = np.array([0.0, 0.25, 17.5, 998.9, 999.0])
    schedule = respace(FULL, positions)
    want = np.exp(np.interp(positions, np.arange(1000), np.log(ALPHA_BAR)))
    np.testing.assert_allclose(schedule.alpha_bar, want, rtol=1e-12)
    np.testing.assert_allclose(FULL.position(schedule.log_snr), positions, atol=1e-9)


def test_dynamic_thresholding_divides_by_the_quantile_if_it_is_over_1():
    x_0 = np.stack([np.linspace(-0.5, 0.5, 100), np.linspace(-4, 4, 100)]).reshape(2, 10, 10, 1)
    got = np.asarray(reverse.limit(jnp.asarray(x_0), clip=True, dynamic=0.9))
    s = np.quantile(np.abs(x_0[1]), 0.9)
    np.testing.assert_allclose(got[0], x_0[0], rtol=1e-6)
    np.testing.assert_allclose(got[1], np.clip(x_0[1], -s, s) / s, rtol=1e-6)
    assert (reverse.limit(jnp.asarray(x_0), clip=True) == x_0.clip(-1, 1).astype(np.float32)).all()
