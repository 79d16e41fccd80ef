//! One get and one put on one thread, by criterion: `cargo bench -p module-ref-benches`.

use bench_peers as peers;
use criterion::{Criterion, criterion_group, criterion_main};
use std::time::{Duration, Instant};

fn pairs(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pairs");
    group.warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    // Named as in the C benchmarks.
    for (name, pairs) in [
        ("percpu_rust", peers::percpu as fn(usize, u64)),
        ("shared_rust", peers::shared),
        ("rust_weak", peers::weak),
        ("arc_swap", peers::arc_swap),
        ("crossbeam_epoch", peers::epoch),
        ("parking_lot", peers::parking_lot),
    ] {
        if name == "percpu_rust" && !peers::counts_per_cpu() {
            continue; // Whoever asked for it says that it is not there.
        }
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|n| {
                let began = Instant::now();
                pairs(0, n);
                began.elapsed()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, pairs);
criterion_main!(benches);
