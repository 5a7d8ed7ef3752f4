//! The rule of retention: tables of sentences, and years under a simulated clock.

use jiff::{SignedDuration, Timestamp, ToSpan as _, civil::date, tz::TimeZone};
use proptest::prelude::*;
use rna_backup::domain::{
    component::ComponentName,
    id::BackupId,
    retention::{Candidate, KeepReason, Policy, RetentionPlan, VerificationStatus, needed},
};
use std::collections::BTreeSet;

const NOW: &str = "2026-11-22T12:00:00Z"; // a Sunday

fn now() -> Timestamp {
    NOW.parse().unwrap()
}

fn hours(n: i64) -> SignedDuration {
    SignedDuration::from_hours(n)
}

fn made(at: Timestamp, verification: VerificationStatus) -> Candidate {
    let id = BackupId::new(ComponentName::MEDIA, at, 1);
    Candidate { created: id.created(), id, verification, pinned: false }
}

/// A backup that is `age` hours old: `v`erified, `f`ailed, `m`issing or `u`nknown, and perhaps `p`inned.
fn candidate((age, marks): (i64, &str)) -> Candidate {
    let verification = match marks.as_bytes()[0] {
        b'v' => VerificationStatus::Verified,
        b'f' => VerificationStatus::Failed,
        b'm' => VerificationStatus::Missing,
        _ => VerificationStatus::Unknown,
    };
    Candidate { pinned: marks.contains('p'), ..made(now() - hours(age), verification) }
}

fn age(id: &BackupId) -> i64 {
    now().duration_since(id.created()).as_hours()
}

const fn policy(days: u32, last: u32, weekly: u32, monthly: u32) -> Policy {
    Policy { days, last, weekly, monthly }
}

const DAY: i64 = 24;
const DEFAULT: Policy = policy(7, 1, 0, 0);

/// Backups by their age in hours, with their marks or with why they stay.
type Backups = &'static [(i64, &'static str)];

/// What the row shows, the rule, what there is, and what of it stays.
const ROWS: &[(&str, Policy, Backups, Backups)] = &[
    ("nothing comes of nothing", DEFAULT, &[], &[]),
    ("the newest verified stays whatever its age", DEFAULT, &[(9999, "v")], &[(9999, "newest verified")]),
    (
        "what is older than the rule goes",
        DEFAULT,
        &[(1, "v"), (7 * DAY - 1, "v"), (7 * DAY, "v"), (8 * DAY, "v")],
        &[(1, "newest verified"), (167, "younger than 7 days")],
    ),
    (
        "a streak of failures never takes the last good one",
        DEFAULT,
        &[(1, "f"), (200, "f"), (300, "f"), (400, "v"), (500, "v")],
        &[(1, "younger than 7 days"), (400, "newest verified")],
    ),
    (
        "what is not verified is not counted on",
        DEFAULT,
        &[(1, "u"), (400, "v")],
        &[(1, "not verified yet"), (400, "newest verified")],
    ),
    (
        "what is not verified is not deleted either",
        DEFAULT,
        &[(1, "v"), (400, "u")],
        &[(1, "newest verified"), (400, "not verified yet")],
    ),
    (
        "what is missing may come back, and is not counted on",
        DEFAULT,
        &[(300, "m"), (400, "v")],
        &[(300, "archive is missing"), (400, "newest verified")],
    ),
    ("a failed one goes even when it is alone", DEFAULT, &[(400, "f")], &[]),
    (
        "pinned ones stay",
        DEFAULT,
        &[(1, "v"), (400, "vp"), (401, "fp")],
        &[(1, "newest verified"), (400, "pinned"), (401, "pinned")],
    ),
    ("a pinned one can be the newest verified", DEFAULT, &[(300, "vp"), (400, "v")], &[(300, "pinned")]),
    (
        "three stay",
        policy(0, 3, 0, 0),
        &[(1, "v"), (2, "f"), (3, "v"), (4, "v"), (5, "v")],
        &[
            (1, "among the newest 3 verified"),
            (3, "among the newest 3 verified"),
            (4, "among the newest 3 verified"),
        ],
    ),
    ("none counts as one", policy(0, 0, 0, 0), &[(1, "v"), (2, "v")], &[(1, "newest verified")]),
    ("no days at all", policy(0, 1, 0, 0), &[(0, "f"), (0, "v")], &[(0, "newest verified")]),
    (
        "the future stays and does not count",
        DEFAULT,
        &[(-999, "v"), (-1, "f"), (300, "v"), (400, "v")],
        &[(-999, "from the future"), (-1, "from the future"), (300, "newest verified")],
    ),
    (
        "one day is no days",
        policy(1, 1, 0, 0),
        &[(1, "v"), (2, "v"), (30, "v")],
        &[(1, "newest verified"), (2, "younger than 1 day")],
    ),
    (
        "the newest of each week",
        policy(0, 1, 3, 0),
        &[
            (12, "v"),      // Sunday
            (36, "v"),      // Saturday of the same week
            (7 * DAY, "v"), // Sunday before
            (8 * DAY, "v"),
            (15 * DAY, "v"),
            (22 * DAY, "v"),
        ],
        &[(12, "newest verified"), (168, "weekly"), (360, "weekly")],
    ),
    (
        "weeks without a backup do not count",
        policy(0, 1, 2, 0),
        &[(1, "v"), (9000, "v"), (9500, "v")],
        &[(1, "newest verified"), (9000, "weekly")],
    ),
    (
        "the newest of a week is the newest verified one",
        policy(0, 1, 2, 0),
        &[(1, "v"), (7 * DAY, "f"), (8 * DAY, "v")],
        &[(1, "newest verified"), (192, "weekly")],
    ),
    (
        "the newest of each month",
        policy(0, 1, 0, 2),
        &[
            (1, "v"),
            (22 * DAY, "v"), // 31 October
            (23 * DAY, "v"),
            (60 * DAY, "v"),
        ],
        &[(1, "newest verified"), (528, "monthly")],
    ),
    (
        "a week is a week across the new year",
        policy(0, 1, 4, 0),
        &[
            (1, "v"),
            (7644, "v"), // 2026-01-08
            (7812, "v"), // 2026-01-01, Thursday of ISO week 2026-W01
            (7836, "v"), // 2025-12-31, Wednesday of the same
        ],
        &[(1, "newest verified"), (7644, "weekly"), (7812, "weekly")],
    ),
    (
        "the order of the list does not matter",
        DEFAULT,
        &[(500, "v"), (1, "v"), (400, "v")],
        &[(1, "newest verified")],
    ),
    (
        "a hundred years of days",
        policy(u32::MAX, 1, 0, 0),
        &[(1, "v"), (9999, "f")],
        &[(1, "newest verified"), (9999, "younger than 4294967295 days")],
    ),
];

#[test]
fn what_staying_backups_build_on_stays_and_what_that_builds_on() {
    let id = |hour: i64| BackupId::new(ComponentName::MEDIA, now() + hours(hour), 1);
    let (first, second, third, other) = (id(1), id(2), id(3), id(4));
    let (on_first, on_second) = ([first.clone()], [second.clone()]);
    let builds_on = |id: &BackupId| match id {
        id if *id == second => &on_first[..],
        id if *id == third => &on_second,
        _ => &[],
    };
    assert_eq!(needed([&other], builds_on), BTreeSet::new());
    assert_eq!(needed([&third, &other], builds_on), BTreeSet::from([first.clone(), second.clone()]));
    let mut plan = RetentionPlan {
        delete: vec![first.clone(), second.clone(), id(5)],
        keep: vec![(third.clone(), KeepReason::Pinned)],
    };
    plan.spare(&needed([&third], builds_on));
    assert_eq!(plan.delete, [id(5)]);
    assert_eq!(
        plan.keep,
        [(third, KeepReason::Pinned), (second, KeepReason::BuiltOn), (first, KeepReason::BuiltOn)]
    );
}

#[test]
fn the_rule_row_by_row() {
    assert_eq!(Policy::default(), DEFAULT);
    for (what, policy, have, keep) in ROWS {
        let have: Vec<_> = have.iter().copied().map(candidate).collect();
        let plan = policy.plan(&have, now());
        let kept: Vec<_> = plan.keep.iter().map(|(id, why)| (age(id), why.to_string())).collect();
        let expected: Vec<_> = keep.iter().map(|(age, text)| (*age, (*text).to_owned())).collect();
        assert_eq!(kept, expected, "{what}: {policy:?}");
        assert_eq!(plan.delete.len() + plan.keep.len(), have.len(), "{what}");
    }
}

#[test]
fn components_are_planned_apart() {
    let at = now() - hours(999);
    let of = |component| Candidate {
        id: BackupId::new(component, at, 1),
        ..made(at, VerificationStatus::Verified)
    };
    let plan = Policy::default().plan(&ComponentName::all().map(of).collect::<Vec<_>>(), now());
    assert_eq!(plan.delete, []);
    assert!(plan.keep.iter().all(|(_, why)| *why == KeepReason::NewestVerified(1)));
}

#[test]
fn other_days_change_nothing_else() {
    let rule = policy(7, 2, 3, 4);
    assert_eq!(rule.with_days(None), rule);
    assert_eq!(rule.with_days(Some(30)), policy(30, 2, 3, 4));
}

#[test]
fn the_oldest_goes_first() {
    let have: Vec<_> = [(1, "v"), (300, "v"), (900, "v"), (500, "v")].map(candidate).into();
    let plan = Policy::default().plan(&have, now());
    assert_eq!(plan.delete.iter().map(age).collect::<Vec<_>>(), [900, 500, 300]);
}

#[test]
fn a_hundred_thousand_backups_are_planned_in_a_moment() {
    let have: Vec<_> = (0..100_000).map(|n| candidate((n * 7919 % 100_000, "v"))).collect();
    let begun = std::time::Instant::now();
    let plan = policy(30, 5, 52, 60).plan(&have, now());
    let took = begun.elapsed();
    assert!(plan.keep.len() < 900 && plan.delete.len() > 99_000);
    // Unoptimised and beside other tests: a second is far off anything quadratic.
    assert!(took.as_secs() < 3, "{took:?}");
}

/// Daily backups from 2021 on, planned and pruned after each, until the end of 2025.
#[test]
fn five_years_of_days_weeks_and_months() {
    let rule = policy(7, 3, 8, 24);
    let mut kept: Vec<Candidate> = Vec::new();
    let (mut day, end) = (date(2021, 1, 1), date(2025, 12, 31));
    while day <= end {
        let at = day.at(2, 0, 0, 0).to_zoned(TimeZone::UTC).unwrap().timestamp();
        kept.push(made(at, VerificationStatus::Verified));
        let plan = rule.plan(&kept, at);
        kept.retain(|candidate| !plan.delete.contains(&candidate.id));
        day = day.checked_add(1.day()).unwrap();
    }
    let days: Vec<_> = kept.iter().map(|c| c.created.to_zoned(TimeZone::UTC).date()).collect();
    // Seven days; the Sundays of the seven weeks before this one; the last of each month.
    let week: Vec<_> = (25..=31).map(|d| date(2025, 12, d)).collect();
    let sundays = [date(2025, 12, 21), date(2025, 12, 14), date(2025, 12, 7)].into_iter();
    let sundays = sundays.chain([date(2025, 11, 30), date(2025, 11, 23), date(2025, 11, 16)]);
    let months = (0..24).map(|n| date(2025, 12, 31).checked_sub(n.months()).unwrap().last_of_month());
    let mut expected: BTreeSet<_> = week.into_iter().chain(sundays).chain(months).collect();
    expected.insert(date(2025, 12, 28));
    assert_eq!(days, expected.into_iter().collect::<Vec<_>>());
}

fn any_policy() -> impl Strategy<Value = Policy> {
    (0u32..60, 0u32..5, 0u32..10, 0u32..10)
        .prop_map(|(days, last, weekly, monthly)| policy(days, last, weekly, monthly))
}

fn any_backups() -> impl Strategy<Value = Vec<Candidate>> {
    let marks = prop_oneof![6 => Just("v"), 2 => Just("f"), 1 => Just("u"), 1 => Just("m"), 1 => Just("vp")];
    proptest::collection::vec((-50i64..20_000, marks).prop_map(candidate), 0..120).prop_map(|mut all| {
        let mut seen = BTreeSet::new();
        all.retain(|candidate| seen.insert(candidate.id.clone()));
        all
    })
}

fn carried_out(have: &[Candidate], plan: &RetentionPlan) -> Vec<Candidate> {
    have.iter().filter(|c| !plan.delete.contains(&c.id)).cloned().collect()
}

fn set(ids: &[BackupId]) -> BTreeSet<&BackupId> {
    ids.iter().collect()
}

proptest! {
    #[test]
    fn what_must_never_go_never_goes(have in any_backups(), rule in any_policy()) {
        let plan = rule.plan(&have, now());
        prop_assert_eq!(plan.delete.len() + plan.keep.len(), have.len());
        let gone = set(&plan.delete);
        let mut verified: Vec<_> = have.iter().filter(|c| c.verification == VerificationStatus::Verified && c.created <= now()).collect();
        verified.sort_by_key(|c| std::cmp::Reverse(c.created));
        for safe in verified.iter().take(rule.last.max(1) as usize) {
            prop_assert!(!gone.contains(&safe.id));
        }
        for candidate in &have {
            let old = candidate.created <= now() - hours(24 * i64::from(rule.days));
            let unknown = matches!(candidate.verification, VerificationStatus::Unknown | VerificationStatus::Missing);
            let safe = candidate.pinned || unknown || !old;
            prop_assert!(!(safe && gone.contains(&candidate.id)), "{:?}", candidate);
        }
    }

    #[test]
    fn planning_again_deletes_nothing_more(have in any_backups(), rule in any_policy()) {
        let left = carried_out(&have, &rule.plan(&have, now()));
        prop_assert_eq!(rule.plan(&left, now()).delete, []);
    }

    #[test]
    fn the_order_does_not_matter(have in any_backups().prop_shuffle(), rule in any_policy()) {
        let mut sorted = have.clone();
        sorted.sort_by(|a, b| a.id.cmp(&b.id));
        prop_assert_eq!(rule.plan(&have, now()), rule.plan(&sorted, now()));
    }

    #[test]
    fn a_more_generous_rule_keeps_no_less(have in any_backups(), rule in any_policy(), more in any_policy()) {
        let generous = policy(
            rule.days + more.days, rule.last + more.last, rule.weekly + more.weekly, rule.monthly + more.monthly,
        );
        let (gone, still_gone) = (rule.plan(&have, now()).delete, generous.plan(&have, now()).delete);
        prop_assert!(set(&still_gone).is_subset(&set(&gone)));
    }

    #[test]
    fn what_may_go_may_still_go_later(have in any_backups(), rule in any_policy(), later in 0i64..5000) {
        let (gone, later) = (rule.plan(&have, now()).delete, rule.plan(&have, now() + hours(later)).delete);
        prop_assert!(set(&gone).is_subset(&set(&later)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// Two years of daily backups of which many fail, pruned after each success as the engine does.
    #[test]
    fn years_with_failures_always_leave_something_to_restore(
        fates in proptest::collection::vec(prop_oneof![3 => Just(VerificationStatus::Verified), 2 => Just(VerificationStatus::Failed)], 730),
        rule in any_policy(),
    ) {
        let mut kept: Vec<Candidate> = Vec::new();
        let mut last_good = None;
        for (day, fate) in fates.into_iter().enumerate() {
            let at = now() + hours(24 * i64::try_from(day).unwrap());
            kept.push(made(at, fate));
            if fate == VerificationStatus::Verified {
                last_good = Some(made(at, fate).id);
            }
            kept = carried_out(&kept, &rule.plan(&kept, at));
            prop_assert!(last_good.as_ref().is_none_or(|id| kept.iter().any(|c| c.id == *id)));
            let most = rule.days.max(1) + rule.last.max(1) + rule.weekly + rule.monthly;
            prop_assert!(kept.len() <= most as usize);
        }
    }
}
