//! The simulator's command line. Exit codes: 0 all well, 1 an oracle objected, 2 wrong use, 3 not deterministic, 4 a canary
//! was not caught.

mod cli;

/// A world is small and short-lived: most of what an allocator does here is taking and giving back.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    std::process::exit(cli::main(&std::env::args().skip(1).collect::<Vec<_>>()));
}
