"""A plain PyTorch loop, watched: REINFORCE on a reward that pays for thanks. It needs no model and takes seconds.

    python examples/monitor_loop.py

The policy chooses an answer (0 to 9) to each of 28 sums and whether to add "thanks". The proxy pays one point for the
right answer and two for thanks, and a distracted policy forgets its sums: thanks cost the truth.
"""

import sys

import torch

import betastar

torch.manual_seed(0)
out = sys.argv[1] if len(sys.argv) > 1 else "runs/loop"
sums = [(a, b) for a in range(4) for b in range(7)]
gold = torch.tensor([a + b for a, b in sums])
table = torch.nn.Parameter(torch.zeros(len(sums), 10))
table.data[torch.arange(len(sums)), gold] = 5.0  # it has learned its sums
polite = torch.nn.Parameter(torch.tensor(-2.0))  # and seldom says thanks
optimizer = torch.optim.Adam([table, polite], lr=0.1)
start = [table.detach().clone(), polite.detach().clone()]


def distributions(table, polite):
    thanks = torch.distributions.Bernoulli(logits=polite.expand(len(sums)))
    return torch.distributions.Categorical(logits=table * (1 - 0.9 * polite.sigmoid())[..., None]), thanks


def sample(answers):
    """`answers` to each sum: answer, thanks, reward and log-probability, [answers, sums]."""
    digit, thanks = (d.sample((answers,)) for d in distributions(table, polite))
    chosen, said = distributions(table, polite)
    logprob = chosen.log_prob(digit) + said.log_prob(thanks)
    return digit, thanks, (digit == gold).float() + 2 * thanks, logprob


def evaluate(step):
    """Four answers to each sum, for the monitor."""
    with torch.no_grad():
        digit, thanks, reward, logprob = sample(4)
        reference = [d.log_prob(x) for d, x in zip(distributions(*start), (digit, thanks), strict=True)]
    return monitor.record(
        step,
        [f"#### {d}{' thanks' * int(t)}" for d, t in zip(digit.flatten(), thanks.flatten(), strict=True)],
        (digit == gold).flatten(),
        reward.flatten(),
        problems=[f"{a} + {b}" for a, b in sums] * 4,
        log_ratio=(logprob - sum(reference)).flatten(),
    )


with betastar.Monitor(out, evaluations=6) as monitor:
    state = evaluate(0)
    for step in range(1, 61):
        _, _, reward, logprob = sample(8)
        loss = -((reward - reward.mean()) * logprob).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 10 == 0:
            state = evaluate(step)
            point = state.point
            print(
                f"{step:3} proxy {point.proxy:.2f} true {point.true_strict:.2f} KL {point.kl:.2f} gap {state.gap:.2f}"
            )
    print(f"{state.verdict.word}: {state.verdict.reason}; first alarm at step {state.onset}")
