//! Whatever lies in Redis, reading it neither panics nor takes long, and says the same twice.
//!
//! Runs on a stable compiler, without instrumentation: inputs are damaged copies of real ones, and an
//! input that a reader answers in a new way is damaged further. `make fuzz` runs it for ten minutes,
//! `make test` for `FUZZ_SECONDS` or three. `FUZZ_SEED` repeats a run; `target/fuzz/running` is the input
//! at work, left behind by a crash or a hang. What was found belongs in `tests/fixtures/fuzz/`.

mod mutate;
mod readers;

use crate::support::chance::Chance;
use mutate::Mutator;
use rustix::time::{ClockId, clock_gettime};
use serde_json::Value;
use std::{
    collections::HashSet,
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::mpsc,
    time::{Duration, Instant},
};

/// Most processor time for one input, however the readers were compiled.
const SLOW: Duration = Duration::from_secs(2);

/// When an input must be called a hang.
const HANG: Duration = Duration::from_mins(1);

/// Most inputs that are kept for further damage, and the longest of them: long ones take the time of many.
const KEPT: usize = 4000;
const LONGEST_KEPT: usize = 8 << 10;

/// A whole number from the environment, where a person sets it for one run.
fn setting(name: &str) -> Option<u64> {
    std::env::var_os(name)
        .map(|text| text.to_str().and_then(|text| text.parse().ok()).expect("a whole number"))
}

/// Every text in the captures that was seen in Redis, and the files of `tests/fixtures/fuzz`.
fn corpus() -> Vec<Vec<u8>> {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let mut corpus: Vec<Vec<u8>> =
        files(&fixtures.join("fuzz")).iter().map(|path| fs::read(path).unwrap()).collect();
    for path in files(&fixtures.join("celery")) {
        raw(&serde_json::from_slice(&fs::read(path).unwrap()).unwrap(), false, &mut corpus);
    }
    assert!(corpus.len() > 150, "{} inputs to begin with", corpus.len());
    corpus
}

/// The files of a folder and those below it, in order.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// The texts under keys `raw` that are JSON, and messages inside of them as `unacked` holds them.
fn raw(value: &Value, below: bool, found: &mut Vec<Vec<u8>>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(key, value)| raw(value, below || key == "raw", found)),
        Value::Array(items) => items.iter().for_each(|item| raw(item, below, found)),
        Value::String(text) if below && text.starts_with(['{', '[']) => {
            if let Ok(Value::Array(unacked)) = serde_json::from_str(text)
                && let Some(message @ Value::Object(_)) = unacked.first()
            {
                found.push(message.to_string().into_bytes());
            }
            found.push(text.clone().into_bytes());
        }
        _ => {}
    }
}

/// Processor time of this thread: what a busy machine does not stretch.
fn cpu_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec.try_into().unwrap_or(0), now.tv_nsec.try_into().unwrap_or(0))
}

/// Reads an input twice; what the readers say of it, and the time of the first reading.
fn check(input: &[u8]) -> (String, Duration) {
    let begun = cpu_time();
    let word = readers::read(input);
    let spent = cpu_time().saturating_sub(begun);
    assert!(spent < SLOW, "{} bytes take {spent:?}", input.len());
    assert_eq!(readers::read(input), word, "the second reading differs");
    (word, spent)
}

/// Damages inputs until the time is over; how many were read, in how many ways, and the slowest.
fn fuzz(seed: u64, seconds: u64, running: &Path) -> (u64, usize, Duration) {
    let mut mutator = Mutator { chance: Chance::new(seed) };
    let mut kept = corpus();
    let own = kept.len();
    let (mut words, mut count, mut slowest) = (HashSet::new(), 0, Duration::ZERO);
    let begun = Instant::now();
    let mut first = 0;
    while begun.elapsed() < Duration::from_secs(seconds) {
        let other = mutator.chance.below(kept.len());
        // At first each of the corpus as it is.
        let input = if first < own {
            first += 1;
            kept[first - 1].clone()
        } else {
            let one = mutator.chance.below(kept.len());
            mutator.mutate(&kept[one], &kept[other])
        };
        fs::write(running, &input).unwrap();
        let checked = catch_unwind(AssertUnwindSafe(|| check(&input)));
        let Ok((word, spent)) = checked else {
            let crash = running.with_file_name(format!("crash-{seed}-{count}"));
            fs::rename(running, &crash).unwrap();
            panic!("FUZZ_SEED={seed} crashes on input {count}, which is in {}", crash.display());
        };
        count += 1;
        slowest = slowest.max(spent);
        if words.insert(word) && first == own && input.len() < LONGEST_KEPT {
            if kept.len() < own + KEPT {
                kept.push(input);
            } else {
                kept[own + mutator.chance.below(KEPT)] = input;
            }
        }
    }
    (count, words.len(), slowest)
}

#[test]
fn no_input_of_any_kind_makes_a_reader_panic_hang_or_contradict_itself() {
    let seed = setting("FUZZ_SEED").unwrap_or_else(|| std::process::id().into());
    let seconds = setting("FUZZ_SECONDS").unwrap_or(3);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/fuzz");
    fs::create_dir_all(&folder).unwrap();
    let running = folder.join("running");
    println!("FUZZ_SEED={seed} for {seconds} s");
    let (done, end) = mpsc::channel();
    // A thread of its own has the stack of a worker's, and can be left behind if it hangs.
    let reader = std::thread::spawn({
        let running = running.clone();
        move || {
            let found = fuzz(seed, seconds, &running);
            done.send(found).unwrap();
        }
    });
    match end.recv_timeout(Duration::from_secs(seconds) + HANG) {
        Ok((count, ways, slowest)) => {
            println!("{count} inputs, read in {ways} ways, the slowest in {slowest:?} of processor time");
            assert!(count > 0, "no input was read");
        }
        Err(mpsc::RecvTimeoutError::Timeout) => {
            panic!("FUZZ_SEED={seed} hangs on the input in {}", running.display())
        }
        Err(mpsc::RecvTimeoutError::Disconnected) => {
            let why = reader.join().expect_err("it sends before it ends");
            std::panic::resume_unwind(why);
        }
    }
}
