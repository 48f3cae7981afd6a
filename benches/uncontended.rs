//! One process, nobody else: `cargo bench --bench uncontended`. For ratios taken in turn, and for many processes, see `processes`.

mod common;

use std::fs::File;
use std::mem::MaybeUninit;
use std::sync::atomic::AtomicU64;

use common::peers::{BareCas, Flock, Hostlock, Kind, Lock, ParkingLot, Pthread, Semaphore, Std};
use criterion::{Criterion, criterion_group, criterion_main};

fn uncontended(criterion: &mut Criterion) {
    let root = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a directory");
    let space = hostlock::Space::builder("bench").root(root.path()).open().expect("a space");
    let mut group = criterion.benchmark_group("uncontended");
    fn add<L: Lock>(group: &mut criterion::BenchmarkGroup<'_, criterion::measurement::WallTime>, name: &str, lock: &L) {
        group.bench_function(name, |bencher| bencher.iter(|| lock.with(|| ())));
    }
    add(&mut group, "two bare CAS", &BareCas(AtomicU64::new(0)));
    let mutex = space.mutex("bench").expect("a mutex");
    add(&mut group, "hostlock", &Hostlock(mutex.clone()));
    add(&mut group, "std", &Std(Default::default()));
    add(&mut group, "parking_lot", &ParkingLot(Default::default()));
    for (name, kind) in [("pthread process-shared", Kind::Plain), ("pthread robust", Kind::Robust)] {
        let mut place = Box::new(MaybeUninit::uninit());
        // SAFETY: the box stays where it is until after the last use.
        let pthread: &Pthread = unsafe {
            Pthread::init(place.as_mut_ptr(), kind);
            place.assume_init_ref()
        };
        add(&mut group, name, pthread);
    }
    let mut place = Box::new(MaybeUninit::uninit());
    // SAFETY: as above.
    let semaphore: &Semaphore = unsafe {
        Semaphore::init(place.as_mut_ptr(), 1);
        place.assume_init_ref()
    };
    add(&mut group, "sem_t", semaphore);
    add(&mut group, "flock (fs2)", &Flock(File::create(root.path().join("flock")).expect("a file")));

    // What else a user calls that should be cheap.
    group.bench_function("hostlock, a handle made and dropped", |bencher| {
        bencher.iter(|| space.mutex("bench").expect("a mutex"));
    });
    group.bench_function("hostlock, holder()", |bencher| {
        let _guard = mutex.lock().expect("the lock");
        bencher.iter(|| mutex.holder().expect("the holder"));
    });
    let elsewhere = tempfile::tempdir_in(root.path()).expect("a directory");
    let keep = hostlock::Space::builder("open").root(elsewhere.path()).open().expect("a space");
    drop(keep);
    group.bench_function("hostlock, a space opened and left", |bencher| {
        bencher.iter(|| hostlock::Space::builder("open").root(elsewhere.path()).open().expect("a space"));
    });
    group.finish();
}

criterion_group!(benches, uncontended);
criterion_main!(benches);
