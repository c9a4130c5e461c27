"""Guided flows against another hand's arithmetic: the published formulas in float64, with torch's own autograd."""

import itertools
import math

import numpy as np
import pytest

from chunkwise.contract import InterfaceValidationError
from chunkwise.engines import TensorSpec
from chunkwise.policies._flow_network import FlowNetwork
from chunkwise.policies._flow_sampling import GuidedFlow

torch = pytest.importorskip("torch")

from chunkwise.policies._flow_torch import TorchVelocity  # noqa: E402  (torch may be missing)

H, A, STEPS = 8, 3, 5
SCHEDULES = ("exp", "linear", "ones", "zeros")
ALLOWED = [(d, s) for s in range(H + 1) for d in range(H - s + 1)]
BEYOND = [(d, s) for s in range(H + 1) for d in range(H - s + 1, H + 2)]
"""Delays that reach past the end of the plan: the end wins."""


class Net(torch.nn.Module):
    """Rows that look at each other, at the observation and at each row's flow time; smooth, and not linear."""

    def __init__(self, row_times=False):
        super().__init__()
        self.row_times = row_times
        self.double_in = torch.nn.Linear(H * A + H + 4, 24)
        self.out = torch.nn.Linear(24, H * A)
        self.double()

    def forward(self, x, t, known):
        times = t.expand(len(x), H)
        seen = torch.cat([x.flatten(1), times, known["s"]], 1)
        return self.out(torch.tanh(self.double_in(seen))).view(x.shape) + torch.sin(x * 2.0)


def net(row_times=False):
    torch.manual_seed(3)
    return Net(row_times).requires_grad_(False)


def flow(guidance, **options):
    field = TorchVelocity(net(guidance == "trained_prefix"), {"s": TensorSpec((None, 4), "float64")}, H, A)
    return GuidedFlow(field, guidance=guidance, steps=STEPS, **options)


@pytest.fixture(scope="module")
def given():
    rng = np.random.default_rng(0)
    return {"s": rng.standard_normal((2, 4))}, rng.standard_normal((2, H, A)), rng.standard_normal((2, H, A))


def published_mask(d, end, schedule):
    """Equation 5 and its relatives, a row at a time."""
    start = min(d, end)
    mask = []
    for i in range(H):
        c = (end - i) / (end - start + 1)
        if i >= end:
            mask.append(0.0)
        elif i < start or schedule == "ones":
            mask.append(1.0)
        else:
            soft = {"exp": c * (math.exp(c) - 1) / (math.e - 1), "linear": c, "zeros": 0.0}
            mask.append(soft[schedule])
    return mask


def reference(observation, noise, plan, mask, guidance, length=0, beta=float(STEPS)):
    """One chunk at a time, one formula at a time."""
    chunks = []
    for b in range(len(noise)):
        known = {"s": torch.tensor(observation["s"][b : b + 1])}
        v_of = net(guidance == "trained_prefix")
        x = torch.tensor(noise[b : b + 1])
        y, w = torch.tensor(plan[b : b + 1]), torch.tensor(mask, dtype=torch.float64)[None, :, None]
        for k in range(STEPS):
            tau = k / STEPS
            if guidance == "trained_prefix":
                x[:, :length] = y[:, :length]
                times = torch.full((1, H), tau, dtype=torch.float64)
                times[:, :length] = 1.0
                x = x + v_of(x, times, known) / STEPS
                continue
            at = x.clone().requires_grad_(True)
            t = torch.full((1, 1), tau, dtype=torch.float64)
            v = v_of(at, t, known)
            clean = at + (1 - tau) * v
            e = ((y - clean) * w).detach()
            g = torch.autograd.grad((clean * e).sum(), at)[0] if guidance == "vjp" else e
            r2 = (1 - tau) ** 2 / (tau**2 + (1 - tau) ** 2)
            gw = beta if tau == 0 else min(beta, (1 - tau) / (tau * r2))
            x = (x + (v.detach() + gw * g) / STEPS).detach()
        if guidance == "trained_prefix":
            x[:, :length] = y[:, :length]
        chunks.append(x[0].numpy())
    return np.stack(chunks)


@pytest.mark.slow
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("guidance", ["vjp", "identity"])
def test_guidance_is_the_published_one(given, guidance, schedule):
    observation, noise, plan = given
    made = flow(guidance)
    for d, s in ALLOWED + BEYOND:
        end = H - s
        ours = made.sample(
            observation,
            plan[:, :end],
            inference_delay=d,
            execution_horizon=s,
            schedule=schedule,
            noise=noise,
        )
        theirs = reference(observation, noise, plan, published_mask(d, end, schedule), guidance)
        np.testing.assert_allclose(ours, theirs, atol=1e-9, rtol=0, err_msg=f"d={d} s={s}")


def test_a_trained_prefix_is_continued_as_published(given):
    observation, noise, plan = given
    made = flow("trained_prefix")
    for d, s in ALLOWED + BEYOND:
        ours = made.sample(observation, plan[:, : H - s], inference_delay=d, execution_horizon=s, noise=noise)
        length = min(d, H - s)
        theirs = reference(observation, noise, plan, np.zeros(H), "trained_prefix", length)
        np.testing.assert_allclose(ours, theirs, atol=1e-9, rtol=0, err_msg=f"d={d} s={s}")
        np.testing.assert_array_equal(ours[:, :length], plan[:, :length])


def test_a_network_with_a_flow_time_for_each_row_can_be_guided_too(given):
    observation, noise, plan = given
    field = TorchVelocity(net(True), {"s": TensorSpec((None, 4), "float64")}, H, A)
    ours = GuidedFlow(field).sample(observation, plan, inference_delay=2, execution_horizon=3, noise=noise)
    theirs = reference(observation, noise, plan, published_mask(2, 5, "exp"), "vjp")
    np.testing.assert_allclose(ours, theirs, atol=1e-9, rtol=0)


class Spy:
    """A field that does nothing but remember what it was told."""

    dim, pulls, row_times = 1, True, True

    def __init__(self, rows=H):
        self.inputs, self.rows = {}, rows
        self.weights, self.targets = [], []

    def condition(self, observation):
        return self

    def velocity(self, x, tau):
        return np.zeros_like(x)

    def pull(self, x, tau, target, weights):
        self.weights.append(weights)
        self.targets.append(target)
        return np.zeros_like(x), np.zeros_like(x), np.zeros_like(x)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_masks_are_the_published_formula(schedule):
    for d, s in ALLOWED + BEYOND:
        spy = Spy()
        GuidedFlow(spy).sample(
            {},
            np.ones((1, H, 1)),
            inference_delay=d,
            execution_horizon=s,
            schedule=schedule,
            noise=np.zeros((1, H, 1)),
        )
        mask = published_mask(d, H - s, schedule)
        if not any(mask):
            assert not spy.weights
            continue
        np.testing.assert_allclose(spy.weights[0][0], mask, atol=1e-12, rtol=0)


@pytest.mark.parametrize("d, end", [(0, H - 1), (1, H - 1), (3, H - 3)])
def test_without_an_execution_horizon_requests_follow_each_other(d, end):
    spy = Spy()
    GuidedFlow(spy).sample({}, np.ones((1, H, 1)), inference_delay=d, noise=np.zeros((1, H, 1)))
    np.testing.assert_allclose(spy.weights[0][0], published_mask(d, end, "exp"), atol=1e-12, rtol=0)


VECTORS = [
    ((2, 6, 10), "linear", "1 1 .8 .6 .4 .2 0 0 0 0"),
    ((2, 6, 10), "exp", "1 1 .5706 .2871 .1145 .0258 0 0 0 0"),
    ((0, 7, 8), "exp", ".7123 .4876 .3158 .1888 .0993 .0413 .0097 0"),
    ((1, 7, 8), "exp", "1 .6766 .4335 .2563 .1335 .0550 .0128 0"),
    ((3, 5, 8), "exp", "1 1 1 .3677 .0767 0 0 0"),
    *(((4, 4, 8), schedule, "1 1 1 1 0 0 0 0") for schedule in SCHEDULES),
    (
        (5, 14, 25),
        "exp",
        "1 1 1 1 1 .7645 .5706 .4130 .2871 .1888 .1145 .0611 .0258 .0061 0 0 0 0 0 0 0 0 0 0 0",
    ),
    *(((5, 3, 8), schedule, "1 1 1 0 0 0 0 0") for schedule in SCHEDULES),
]


@pytest.mark.parametrize("case, schedule, wanted", VECTORS)
def test_masks_have_the_recorded_values(case, schedule, wanted):
    d, end, rows = case
    spy = Spy(rows)
    GuidedFlow(spy).sample(
        {},
        np.ones((1, rows, 1)),
        inference_delay=d,
        execution_horizon=rows - end,
        schedule=schedule,
        noise=np.zeros((1, rows, 1)),
    )
    np.testing.assert_allclose(spy.weights[0][0], np.array(wanted.split(), float), atol=5e-5, rtol=0)


@pytest.mark.parametrize("guidance", ["vjp", "identity", "trained_prefix"])
def test_what_binds_nothing_changes_no_bit(given, guidance):
    observation, noise, plan = given
    made = flow(guidance)
    free = made.sample(observation, noise=noise)
    same = [
        made.sample(observation, plan[:, :0], inference_delay=3, noise=noise),  # the plan ran dry
        made.sample(observation, plan, inference_delay=0, execution_horizon=2, schedule="zeros", noise=noise),
        made.sample(observation, plan, inference_delay=0, execution_horizon=H, noise=noise),  # end = 0
        made.sample(observation, plan, weights=np.zeros((2, H)), noise=noise),
    ]
    if guidance == "trained_prefix":
        same.append(made.sample(observation, plan, inference_delay=0, execution_horizon=1, noise=noise))
    for chunk in same:
        np.testing.assert_array_equal(chunk, free)


@pytest.mark.parametrize("guidance", ["vjp", "identity"])
def test_a_plan_that_is_shorter_ends_where_it_ends(given, guidance):
    observation, noise, plan = given
    made = flow(guidance)
    for length, d in itertools.product((1, 3, H), (0, 1, 2, 5)):
        ours = made.sample(observation, plan[:, :length], inference_delay=d, execution_horizon=2, noise=noise)
        mask = published_mask(d, min(length, H - 2), "exp")
        np.testing.assert_allclose(ours, reference(observation, noise, plan, mask, guidance), atol=1e-9, rtol=0)


def test_what_pads_a_plan_is_its_last_row_and_binds_nothing():
    spy = Spy()
    plan = np.arange(3.0).reshape(1, 3, 1)
    GuidedFlow(spy).sample({}, plan, weights=np.ones((1, 3)), noise=np.zeros((1, H, 1)))
    assert spy.targets[0][0, :, 0].tolist() == [0, 1, 2, 2, 2, 2, 2, 2]
    assert spy.weights[0][0].tolist() == [1, 1, 1, 0, 0, 0, 0, 0]


def test_given_weights_say_all(given):
    observation, noise, plan = given
    mask = published_mask(2, 6, "linear")
    ours = flow("vjp").sample(observation, plan, weights=np.tile(mask, (2, 1)), noise=noise)
    np.testing.assert_allclose(ours, reference(observation, noise, plan, mask, "vjp"), atol=1e-9, rtol=0)


def test_a_prefix_that_was_never_trained_is_cut_and_said_once(given, caplog):
    observation, noise, plan = given
    made = flow("trained_prefix", longest=2)
    theirs = reference(observation, noise, plan, np.zeros(H), "trained_prefix", 2)
    for _ in range(3):
        ours = made.sample(observation, plan, inference_delay=4, noise=noise)
        np.testing.assert_allclose(ours, theirs, atol=1e-9, rtol=0)
    assert [record.getMessage()[:22] for record in caplog.records] == ["the delay is 4 rows, a"]
    assert made.cut == 6  # both of the batch


def test_without_a_delay_rows_of_weight_one_are_given(given):
    observation, noise, plan = given
    mask = np.tile([1.0, 1.0, 0.6, 0.2, 0, 0, 0, 0], (2, 1))
    ours = flow("trained_prefix").sample(observation, plan, weights=mask, noise=noise)
    np.testing.assert_array_equal(ours[:, :2], plan[:, :2])
    assert np.abs(ours[:, 2] - plan[:, 2]).max() > 1e-3


def test_the_encoder_runs_once_and_is_no_part_of_the_backward_pass(given):
    observation, noise, plan = given
    calls = []

    class Encoded(Net):
        def encode(self, seen):
            calls.append(torch.is_grad_enabled())
            return {"s": torch.tanh(seen["s"]) * self.out.bias[:4]}

    torch.manual_seed(3)
    field = TorchVelocity(Encoded(), {"s": TensorSpec((None, 4), "float64")}, H, A)
    assert not any(parameter.requires_grad for parameter in field.call.parameters())
    ours = GuidedFlow(field).sample(observation, plan, inference_delay=2, execution_horizon=3, noise=noise)
    assert calls == [False]
    bias = net().out.bias[:4].numpy()
    known = {"s": np.tanh(observation["s"]) * bias}
    theirs = reference(known, noise, plan, published_mask(2, 5, "exp"), "vjp")
    np.testing.assert_allclose(ours, theirs, atol=1e-9, rtol=0)


def test_guidance_is_exact_whatever_mode_its_caller_is_in(given):
    """Torch's inference mode records nothing: what is exact outside would be the identity's in there."""
    observation, noise, plan = given
    theirs = reference(observation, noise, plan, published_mask(2, 5, "exp"), "vjp")
    made = flow("vjp")
    with torch.inference_mode():
        ours = made.sample(observation, plan, inference_delay=2, execution_horizon=3, noise=noise)
        assert torch.is_inference_mode_enabled()
    np.testing.assert_allclose(ours, theirs, atol=1e-9, rtol=0)
    assert torch.is_grad_enabled()


def test_a_field_that_torch_cannot_differentiate_is_refused(given):
    observation, noise, plan = given

    class Deaf(Net):
        @torch.no_grad()
        def forward(self, x, t, known):
            return super().forward(x, t, known)

    made = GuidedFlow(TorchVelocity(Deaf(), {"s": TensorSpec((None, 4), "float64")}, H, A))
    made.sample(observation, noise=noise)
    with pytest.raises(InterfaceValidationError, match="depends on x, and torch cannot differentiate it"):
        made.sample(observation, plan, inference_delay=2, execution_horizon=3, noise=noise)


def test_a_field_that_does_not_look_at_x_is_guided(given):
    observation, noise, plan = given
    still = TorchVelocity(lambda x, t, known: torch.ones_like(x), {"s": TensorSpec((None, 4), "float64")}, H, A)
    chunk = GuidedFlow(still).sample(observation, plan, inference_delay=2, execution_horizon=3, noise=noise)
    apart = np.abs(chunk - plan)[:, :2].mean()
    assert apart < np.abs(noise + 1 - plan)[:, :2].mean()


def test_the_largest_beta_is_twice_the_steps():
    GuidedFlow(Spy(), steps=5, beta=10.0)
    with pytest.raises(ValueError, match=r"beta must be within 0 and 2 \* steps = 10"):
        GuidedFlow(Spy(), steps=5, beta=10.1)


def bad_prefix(shape):
    return lambda flow: flow.sample({}, np.zeros(shape), inference_delay=1, rng=np.random.default_rng(0))


@pytest.mark.parametrize(
    "call, message",
    [
        (bad_prefix((1, 4, 2)), r"prefix must be \(1, rows, 1\)"),
        (bad_prefix((2, 4, 1)), r"prefix must be"),
        (lambda flow: flow.sample({}, np.zeros((1, 4, 1)), rng=np.random.default_rng(0)), "needs weights, or"),
        (lambda flow: flow.sample({}), "needs an rng or noise"),
        (
            lambda flow: flow.sample(
                {}, np.zeros((1, 4, 1)), weights=np.ones((1, 3)), rng=np.random.default_rng(0)
            ),
            r"weights must be \(1, 4\)",
        ),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(InterfaceValidationError, match=message):
        call(GuidedFlow(Spy()))


def test_a_network_is_told_one_delay_for_a_batch():
    network = FlowNetwork(GuidedFlow(Spy(), guidance="trained_prefix"))
    rows = np.ones((2, H, 1), np.float32)
    told = {"noise": rows * 0, "prefix": rows, "prefix_weights": rows[..., 0]}
    chunk = network.run({**told, "inference_delay": np.array([3, 3])})["action"]
    assert (chunk == 1.0).sum(axis=(1, 2)).tolist() == [3, 3]
    with pytest.raises(InterfaceValidationError, match=r"has one inference_delay, got \[1, 3\]"):
        network.run({**told, "inference_delay": np.array([1, 3])})


def test_a_field_that_cannot_be_guided_so_is_refused():
    spy = Spy()
    spy.pulls = spy.row_times = False
    with pytest.raises(InterfaceValidationError, match="vector-Jacobian product"):
        GuidedFlow(spy, guidance="vjp")
    with pytest.raises(InterfaceValidationError, match="flow time for each row"):
        GuidedFlow(spy, guidance="trained_prefix")
    with pytest.raises(InterfaceValidationError, match="longest is for guidance 'trained_prefix'"):
        GuidedFlow(spy, guidance="identity", longest=3)


def test_a_velocity_of_another_shape_is_refused(given):
    observation, noise, _ = given
    wrong = TorchVelocity(lambda x, t, known: x[:, :2], {"s": TensorSpec((None, 4), "float64")}, H, A)
    with pytest.raises(InterfaceValidationError, match="must have that shape"):
        GuidedFlow(wrong).sample(observation, noise=noise)
