//! The simulator's command line. Exit codes: 0 all well, 1 an oracle objected, 2 wrong use, 3 not deterministic, 4 a canary
//! was not caught.

mod cli;

fn main() {
    std::process::exit(cli::main(&std::env::args().skip(1).collect::<Vec<_>>()));
}
