"""Image to video by diffusers' modules: encoder, transformer, solver and decoder. Needs torch."""

import numpy as np
import vae_reference
import wan_reference

from syncmv4d_jax import flow


def image_to_video(
    transformer, autoencoder, *, image, noise, texts, kind, steps, guidance, mean, std
):
    """Runs the official pipeline's loop.

    Args:
      transformer, autoencoder: of wan_reference.build and vae_reference.build.
      image: [1 1 h w 3] in -1..1, or None for text to video.
      noise: [1 f h w c].
      texts: [2 l d], the prompt and the negative prompt, zero beyond their lengths.
      kind, steps, guidance: of the solver; sigmas and timesteps are the official ones, shift 5.
      mean, std: [c] statistics of the latents.

    Returns:
      latents of the image [1 1 h w c] or None, latents [1 f h w c], video [1 n h w 3] in -1..1.
    """
    import diffusers
    import torch

    schedule = flow.schedule(kind, steps, shift=5.0)  # sigmas and timesteps only
    cls = {
        "unipc": diffusers.UniPCMultistepScheduler,
        "dpmpp_2m": diffusers.DPMSolverMultistepScheduler,
    }[kind]
    scheduler = cls(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=1.0, solver_order=2
    )
    scheduler.set_timesteps(steps)
    scheduler.sigmas = torch.tensor([*np.asarray(schedule.sigma).tolist(), 0.0])
    scheduler.timesteps = torch.tensor(np.asarray(schedule.timestep).tolist()).long()
    mean, std = (np.asarray(x, np.float32) for x in (mean, std))
    latents, first = torch.tensor(noise), None
    with torch.no_grad():
        if image is not None:
            found = autoencoder.encode(vae_reference.first(image)).latent_dist.mean
            first = (vae_reference.last(found) - mean) / std
            latents[:, :1] = torch.from_numpy(first)
        f, h, w = noise.shape[1:4]
        patch = transformer.config.patch_size
        tokens = (h // patch[1]) * (w // patch[2])
        moving = (np.arange(f) > (0 if first is not None else -1)).astype(np.float32)
        for timestep in scheduler.timesteps:
            t = np.repeat(moving * timestep.item(), tokens)[None].repeat(2, 0)
            both = latents.repeat(2, 1, 1, 1, 1).numpy()
            v = wan_reference.run(transformer, both, t.astype(np.float32), texts)
            v = v[1:] + guidance * (v[:1] - v[1:])
            latents = scheduler.step(v, timestep, latents, return_dict=False)[0]
            if first is not None:
                latents[:, :1] = torch.from_numpy(first)
        latents = latents.numpy()
        decoded = autoencoder.decode(vae_reference.first(latents * std + mean)).sample
    return first, latents, vae_reference.last(decoded)
