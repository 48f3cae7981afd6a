//! What hostlock promises, tried over every backend: the same tests, on a space that is a segment and on one of lock files.
//!
//! Each test is a function of the backend, and has two names: `on_segment::…` and `on_files::…`. What a backend does not have is an error of its
//! own, which is tested here too.

#[path = "../support/mod.rs"]
mod support;

mod actor;
mod exclusion;
mod lifecycle;
mod names;
mod permits;
mod processes;
mod readers;
mod several;
mod storm;

use support::backends::{by_name, name_of, space};

#[test]
fn role() {
    support::act(&[
        ("actor", actor::act),
        ("forker", processes::forker),
        ("closer", processes::closer),
        ("executor", processes::executor),
        ("masked", names::masked),
        ("worker", storm::worker),
    ]);
}

/// The tests of a module, for each backend.
macro_rules! on_both {
    ($($module:ident: $($test:ident)+;)+) => {
        mod on_segment {
            $($(#[test] fn $test() { super::$module::$test(hostlock::Backend::Segment) })+)+
        }
        mod on_files {
            $($(#[test] fn $test() { super::$module::$test(hostlock::Backend::Files) })+)+
        }
    };
}

on_both! {
    exclusion:
        processes_exclude_each_other_and_tokens_grow
        threads_of_one_process_exclude_each_other
        a_thread_that_waits_for_itself_is_told
        a_deadline_is_kept_and_leaves_nothing
        giving_up_while_many_wait_wakes_somebody_else
        a_stopped_owner_keeps_its_lock
        a_stopped_waiter_keeps_nobody_out;
    lifecycle:
        a_death_is_told_once_with_who_it_was
        whoever_abandons_is_told_of_as_if_dead
        a_killed_waiter_costs_nobody_anything
        a_dead_owner_is_followed_by_a_try
        a_death_is_still_told_after_somebody_who_could_not_be_told;
    processes:
        a_child_holds_and_releases_nothing_of_its_parents
        a_child_that_outlives_its_parent_keeps_nothing
        a_child_stays_in_the_space_when_its_parent_leaves
        a_program_started_under_the_lock_keeps_nothing
        a_program_that_the_lock_is_passed_on_to_keeps_it
        whoever_closes_all_descriptors_holds_the_lock_or_knows_that_it_does_not
        a_child_and_its_parent_exclude_each_other;
    readers:
        readers_share_and_writers_do_not
        a_writer_gets_in_among_readers_that_keep_coming
        a_dead_reader_is_gone_and_a_dead_writer_is_told
        a_reader_has_the_token_of_the_last_write
        the_holders_of_a_read_write_lock_are_listed;
    permits:
        so_many_permits_and_no_more
        permits_of_the_dead_come_back_once
        several_permits_come_together_or_not_at_all
        tokens_of_permits_grow_across_the_semaphore
        the_holders_of_permits_are_listed;
    names:
        a_name_is_one_kind_of_lock
        a_name_in_use_stays_and_one_that_is_not_goes
        a_space_has_room_for_so_many_names
        bad_names_are_refused
        holder_says_who_and_since_when
        looking_from_outside_changes_nothing_and_sees_all
        all_openers_agree_on_the_backend
        what_a_backend_does_not_have_is_unsupported
        rights_are_those_of_the_mode_whatever_the_umask
        a_damaged_space_is_refused_and_says_why
        a_copy_of_a_space_is_refused
        a_removed_space_is_noticed;
    several:
        several_locks_come_together_or_not_at_all
        whoever_wants_several_in_any_order_gets_them
        a_death_is_still_told_after_several_were_not_to_be_had
        a_thread_acquires_again_what_it_has
        a_wait_is_cancelled_and_leaves_nothing;
    storm:
        a_storm_of_kills_is_in_order;
}
