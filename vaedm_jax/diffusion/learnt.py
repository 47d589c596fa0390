"""A learnt table: a chain of few rows whose noise levels and coefficients are fitted to a chain of many.

This is the idea of S4S (arXiv 2502.17423). In a table without noise, `base` is a sum of the start and of earlier x_0.
So every solver on x_0 says

    u_{i+1} = a_i u_i + sum_k b_ik x_0[k]

over its whole history. A learnt table has the a, the b and the levels as free numbers. eps is a sum of u and x_0, so it
adds nothing.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from vaedm_jax.diffusion.chain import Chain
from vaedm_jax.diffusion.process import level_of_sigma
from vaedm_jax.diffusion.reverse import Table
from vaedm_jax.diffusion.schedule import Schedule

TUNED, TEACHER = "tuned", "unipc2"  # the sampler; the sampler whose table it begins as, and which it is fitted to


class Learnt(NamedTuple):
    """The free numbers of a table of N rows.

    Attributes:
      log_sigma: [N - 1], log sqrt((1 - alpha_bar) / alpha_bar) of the rows after the first, which is where the chain
        starts.
      a: [N].
      b: [N, N], the newest estimate first.
    """

    log_sigma: Any
    a: Any
    b: Any


def table_name(chain: Chain) -> str:
    """Return the name of the learnt table that fits a chain, such as `noise_5` or `warm500_3`."""
    return f"{chain.start}{chain.t_start if chain.start == 'warm' else ''}_{chain.steps}"


def unrolled(table: Table) -> Learnt:
    """Return the numbers with which a learnt table draws what `table` draws.

    Args:
      table: it neither adds noise nor uses eps.
    """
    N = table.nfe
    of_u = of_base = np.eye(1, N + 1)[0]  # weights of the start and of the estimate of each row
    a, b = np.zeros(N), np.zeros((N, N))
    for i in range(N):
        past = np.eye(N + 1)[i + 1 : 0 : -1]  # newest first
        K = min(i + 1, table.b.shape[1])
        of_base = table.p[i] * of_u + table.q[i] * of_base + table.r[i, :K] @ past[:K]
        after = table.a[i] * of_base + table.b[i, :K] @ past[:K]
        a[i] = after[0] / of_u[0]
        b[i, : i + 1] = past[:, 1:] @ (after - a[i] * of_u)[1:]
        of_u = after
    sigma = table.sqrt_one_minus_alpha_bar[1:] / table.sqrt_alpha_bar[1:]
    return Learnt(np.log(sigma), a, b)


def learnt_table(full: Schedule, begin: Table, learnt: Learnt) -> Table:
    """Return the trimmed table of learnt numbers, as arrays of JAX that can be differentiated.

    Args:
      full: the whole schedule, which gives the steps t of the levels.
      begin: a table with the same first level.
    """
    sigma = jnp.exp(learnt.log_sigma)
    levels = level_of_sigma(full, sigma)
    columns = [
        jnp.concatenate([jnp.asarray(first[:1], sigma.dtype), rest.ravel()])
        for first, rest in zip(begin[:3], levels, strict=True)
    ]
    zero = jnp.zeros_like(learnt.b)
    return Table(*columns, p=None, q=None, r=None, a=learnt.a, b=learnt.b, c=zero, sigma=None, follow=zero[0])
