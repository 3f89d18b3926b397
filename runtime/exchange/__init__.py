"""The exchange: what replaces upstream's own while a job compresses.

seams       puts `ring`, `ulysses` and `guidance` where xfuser looks for its own, and takes them away again
ring        keys and values of the other sequence shards, coded, then attention over all of them
ulysses     heads for tokens and back, coded per peer
guidance    the two guidance branches, coded, the same numbers on both sides
floors      what is never coded coarsely, whatever the rate
parcels     frames of one exchange packed into one byte tensor
streams     the codec's encoders and decoders, by stream
wire        the collectives: timed, paced, counted
courier     transfers that run while the rank computes
boundary    the agreement at the end of every step, and what follows from it (`control`, `windows`)
"""
