/* Activations by number, in the order of `ACTIVATIONS` in checks.py. */

#ifndef FASTVAE_ACTIVATION_H
#define FASTVAE_ACTIVATION_H

/* Of `count` entries in place. `alpha`: leaky_relu's negative slope or elu's alpha. */
void fastvae_activate(int activation, float alpha, float *y, int count);

#endif
