"""The harness: every fault that this product meets in its life, at every point of the money path, with real processes.

A program of practice; nothing of production imports it. A trial restores a small home, runs one step of the story as a command of
its own process, lets one fault happen at one point, resumes as a person would, goes on to the end of the story, and holds the
acquirer's own book against what each customer should have been charged. Belongs here: worlds, faults, resuming, judging. Does not:
any rule of money, and no change of the product for its sake - points at which it fails are the product's own `failpoints`.

``program``  the command line as a forked process, with small waves and short patience;
``world``    a home with its PostgreSQL and its acquirer: made once per step, restored for every trial;
``story``    the steps in their order, each with its command and its hour;
``faults``   what can go wrong, and to which cells it does not apply, with the reason;
``people``   resuming as a person would, by what exit codes and messages say;
``judge``    the invariants, by the book and the truth alone: imports nothing of the product;
``trial``    one cell: restore, run, fail, resume, judge;
``campaign`` which cells are tried, in which order, and what came of it.
"""
