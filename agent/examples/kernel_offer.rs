//! What this host's kernel offers to probes, as JSON: how recordings for the tests are made. With any
//! argument only the names in BTF that are there, one a line.

use std::process::ExitCode;

use why502::sources::kernel::{btf::Btf, layout, offer::Offer};

fn main() -> ExitCode {
    let btf = match Btf::of_kernel() {
        Ok(btf) => btf,
        Err(error) => {
            eprintln!("{error:#}");
            return ExitCode::FAILURE;
        }
    };
    let (_, missing) = layout::read(&btf);
    let offer = Offer::of_host(&btf, &missing);
    if std::env::args().len() > 1 {
        for name in &offer.btf {
            println!("{name}");
        }
        return ExitCode::SUCCESS;
    }
    match serde_json::to_string_pretty(&offer) {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
