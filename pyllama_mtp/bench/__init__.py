"""`pyllama-mtp bench`: how fast a pair is, with and without drafts, and beside unmodified llama.cpp.

settings is what was asked for; shapes writes pairs with random weights; prompts are what gets completed; measure runs
one completion here, peer (with peer_worker in its own process) one in llama.cpp, peer_sweep finds llama.cpp's fastest
setting; plan puts the runs into an order that alternates; summary takes medians and ratios; report and plot show them.
kv compares types of the KV cache. pyllama_mtp/commands/bench.py has the arguments.
"""
