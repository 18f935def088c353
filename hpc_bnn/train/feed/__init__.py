"""How batches come to a rank: read by each rank, or once along the sample axis and shared.

All S sample ranks of a data rank need the same batch of B / D examples. ``data.share`` says how
they come by it; the batch is the same, bit for bit, whatever it says.

    each        every rank reads all of it
    window      every rank reads a part into memory that the ranks of the node share
    allgather   every rank reads a part, an exchange at the hand-over makes it whole
"""
