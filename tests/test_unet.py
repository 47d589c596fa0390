"""Parts of the U-Net that are computed in another way than they are defined."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vaedm_jax.models.layers import UpConv, softmax


def test_upconv_is_the_convolution_of_the_image_enlarged_twofold():
    x = jax.random.normal(jax.random.key(0), (2, 5, 4, 3))
    plain = nn.Conv(6, (3, 3), padding=((1, 1), (1, 1)))
    params = plain.init(jax.random.key(1), x)
    params = jax.tree.map(lambda a: a + 0.1, params)  # so that the bias matters
    assert jax.tree.map(jnp.shape, UpConv(6).init(jax.random.key(1), x)) == jax.tree.map(jnp.shape, params)

    def square(network, twice):
        def loss(params, x):
            y = network.apply(params, x.repeat(2, axis=1).repeat(2, axis=2) if twice else x)
            return jnp.sum(jnp.sin(y)), y

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(params, x)

    ours, theirs = square(UpConv(6), False), square(plain, True)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), ours, theirs)
    assert ours[0][1].shape == (2, 10, 8, 6)


def test_the_softmax_has_the_gradient_of_the_softmax_of_flax_at_any_precision():
    logits, seen = jax.random.normal(jax.random.key(0), (2, 3, 5, 7))

    def gradient(weights):
        return jax.grad(lambda a: jnp.sum(weights(a) * seen))(logits)

    ours = gradient(lambda a: softmax(a, jnp.float32))
    np.testing.assert_allclose(ours, gradient(nn.softmax), rtol=1e-5, atol=1e-7)
    low = gradient(lambda a: softmax(a, jnp.bfloat16).astype(jnp.float32))
    np.testing.assert_allclose(low, ours, rtol=0, atol=2**-8)
