"""A rank that says where it is: ``place.py`` prints world rank, node rank, node size and nodes."""

import hpc_bnn as hb

if __name__ == "__main__":
    world = hb.start(device="cpu")
    rank, nodes = world.grid.world_rank, world.num_nodes
    print(f"place {rank} {world.node_rank} {world.node_size} {nodes}", flush=True)
    world.stop()
