"""What kernels are compiled with: Numba's settings and the cache of machine code, small numeric helpers, threads.

It knows numbers and processors. It must not know what a tree is: everything here works on plain arrays.
"""
