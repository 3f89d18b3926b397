"""The exchange: what replaces upstream's ring all-gather and Ulysses all-to-all while a job compresses.

seams       puts `ring` and `ulysses` where xfuser looks for its own, and takes them away again
ring        keys and values of the other sequence shards, coded, then attention over all of them
ulysses     heads for tokens and back, coded per peer
parcels     frames of one exchange packed into one byte tensor
streams     the codec's encoders and decoders, by stream
wire        the collectives: timed, paced, counted
boundary    the agreement at the end of every step, and what follows from it (`control`, `windows`)
"""
