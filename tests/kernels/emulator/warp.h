// Warp collectives: lanes named by a mask meet, exchange values, and go on together.
//
// Stricter than a GPU on purpose: a lane outside its own mask, a source outside the mask, lanes that meet at different
// collectives, and a mask with a lane that already ended all fail. Exchanging values orders no memory; __syncwarp does.
#pragma once

#include <algorithm>

#include "block.h"

namespace emulator {

inline unsigned existing_lanes() {
  int lanes = static_cast<int>(block->threads.size()) - thread->warp() * WARP_LANES;
  return lanes >= WARP_LANES ? ~0u : (1u << lanes) - 1;
}

// The collective with this mask that waits for this lane, or a new one.
inline Collective& meet(const char* name, unsigned mask) {
  const unsigned me = 1u << thread->lane();
  mask &= existing_lanes();
  if (!(mask & me)) fail(std::string(name) + ": the lane is not in its own mask");
  auto& open = block->warps[thread->warp()].open;
  for (auto& one : open) {
    if (one->mask == mask && std::strcmp(one->name, name) == 0) return *one;
    if (one->mask & mask)
      fail(std::string(name) + " meets " + one->name + " of lanes of the same warp, or another mask");
  }
  open.push_back(std::make_unique<Collective>(Collective{name, mask}));
  return *open.back();
}

// All lanes are there: give each what it asked for and let them continue.
inline void complete(Collective& all, const std::function<void(const Collective&, Thread&)>& give) {
  const int first = thread->warp() * WARP_LANES;
  for (int lane = 0; lane < WARP_LANES; ++lane) {
    if (!(all.mask >> lane & 1)) continue;
    Thread& one = block->threads[first + lane];
    give(all, one);
    one.state = State::ready;
  }
  auto& open = block->warps[thread->warp()].open;
  open.erase(std::find_if(open.begin(), open.end(), [&](auto& one) { return one.get() == &all; }));
}

// Bring `value`, ask for `source`'s; `give` fills every lane's `received` when the last one has come.
template <class Value>
void gather_lanes(const char* name, unsigned mask, const Value& value, int source,
                  const std::function<void(const Collective&, Thread&)>& give) {
  static_assert(sizeof(Value) <= LARGEST_SHUFFLED);
  Collective& mine = meet(name, mask);
  const int lane = thread->lane();
  std::memcpy(mine.value[lane], &value, sizeof(Value));
  mine.source[lane] = source;
  mine.arrived |= 1u << lane;
  if (mine.arrived == mine.mask)
    complete(mine, give);
  else
    wait(State::at_warp_collective);
}

template <class Value>
Value received() {
  Value value;
  std::memcpy(&value, thread->received, sizeof(Value));
  return value;
}

template <class Value>
Value shuffle(const char* name, unsigned mask, Value value, int source) {
  Quiet quiet;
  if (source != thread->lane() && !(mask >> source & 1)) fail(std::string(name) + " reads a lane outside its mask");
  gather_lanes(name, mask, value, source, [](const Collective& all, Thread& to) {
    std::memcpy(to.received, all.value[all.source[to.lane()]], sizeof(Value));
  });
  return received<Value>();
}

// For each lane the lanes of the mask whose value equals its own (match), or is not zero (ballot).
template <class Value>
unsigned lanes_where(const char* name, unsigned mask, Value value, bool equal_to_own) {
  Quiet quiet;
  gather_lanes(name, mask, value, 0, [equal_to_own](const Collective& all, Thread& to) {
    Value own{}, other{};
    if (equal_to_own) std::memcpy(&own, all.value[to.lane()], sizeof(Value));
    unsigned lanes = 0;
    for (int lane = 0; lane < WARP_LANES; ++lane) {
      if (!(all.mask >> lane & 1)) continue;
      std::memcpy(&other, all.value[lane], sizeof(Value));
      if ((other == own) == equal_to_own) lanes |= 1u << lane;
    }
    std::memcpy(to.received, &lanes, sizeof(lanes));
  });
  return received<unsigned>();
}

inline void warp_barrier(unsigned mask) {
  Quiet quiet;
  static const char NAME[] = "__syncwarp";
  Collective& all = meet(NAME, mask);
  auto& places = block->warps[thread->warp()].memory_order;
  if (all.memory_order == nullptr) all.memory_order = places.emplace_back(std::make_unique<char>()).get();
  char* const order = all.memory_order;
  release(order);
  gather_lanes(NAME, mask, 0, 0, [](const Collective&, Thread&) {});
  acquire(order);
}

}  // namespace emulator
