"""The Gaussian of one layer: its moments, its samples and divergences, and how they are computed.

    moments          the formulas: a low-rank conditional Gaussian over a layer's output
    stochastic_pass  what a forward pass asks of the layers, and the record of what they report
    layer_output     what a layer adds to its output, by whichever implementation suits
    fused            the same tile by tile, keeping next to nothing for the backward pass (tile, plan)
    triton_layer     the same in two GPU kernels (triton_kernels)
    weight_space     a Gaussian over the layer's weights instead
    noise            standard normal numbers that can be drawn again

Tensors in, tensors out: nothing here knows of transformers or PEFT.
"""
