//! Items that nobody asked for.

use super::*;

fn key(i: u32) -> Vec<u8> {
    format!("key:{i:06}").into_bytes()
}

fn scan(store: &mut Store, keys: std::ops::Range<u32>) {
    for i in keys {
        put(store, at(0), &key(i), &[7; 300], 1, Expiry::Never).expect("room");
        store.tick(at(0));
    }
}

fn holds(store: &mut Store, i: u32) -> bool {
    let probe = store.probe(&key(i));
    store.find(at(0), probe, &key(i), false).is_some()
}

#[test]
fn what_was_evicted_a_short_while_ago_is_on_probation_until_somebody_asks_for_it() {
    let mut store = Store::new(options(4 * MIB));
    scan(&mut store, 0..20_000);
    let [asked, unasked, used, forgotten] = [18_000, 17_990, 17_980, 100_000];
    assert!([asked, unasked, used].iter().all(|&i| !holds(&mut store, i)), "they were evicted");
    scan(&mut store, asked..asked + 1);
    store.set_unasked(true);
    [unasked, used, forgotten].iter().for_each(|&i| scan(&mut store, i..i + 1));
    store.set_unasked(false);
    for i in [used, forgotten] {
        assert!(value_of(&mut store, at(0), &key(i)).is_some());
        let probe = store.probe(&key(i));
        store.credit(probe, &key(i));
    }
    scan(&mut store, 20_000..23_000);
    assert!(holds(&mut store, asked), "it proved itself by coming twice");
    assert!(!holds(&mut store, unasked), "nobody asked for it");
    assert!(holds(&mut store, used), "somebody did, as often as for the first");
    assert!(!holds(&mut store, forgotten), "one use alone proves nothing");
    check_counts(&store);
}
