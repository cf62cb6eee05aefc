// Random numbers without state: every draw is a function of a key, so that it can be repeated anywhere, in any order.
//
// A counter-based generator: the finaliser of SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number
// generators", 2014) over keys made of the seed, the purpose and a counter.
#pragma once

#include <cmath>
#include <cstdint>

#ifdef __CUDACC__  // the hashes are taken on devices too
#define PMTP_ANYWHERE __host__ __device__
#else
#define PMTP_ANYWHERE
#endif

namespace pmtp {

// 2^64 divided by the golden ratio.
constexpr uint64_t kGolden = 0x9e3779b97f4a7c15ull;

PMTP_ANYWHERE inline uint64_t mix_bits(uint64_t z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

// The random bits of a token under the key of a draw.
PMTP_ANYWHERE inline uint64_t token_bits(uint64_t key, int32_t token) {
    return mix_bits(key + ((uint64_t) token + 1) * kGolden);
}

// What a draw is for. Draws of different purposes are independent: sharing them between drafting, acceptance and the
// residual would bias what is generated.
enum class Purpose : uint64_t { token = 0, draft = 1, acceptance = 2, residual = 3, synthetic = 4 };

// Noise of every token at one draw.
class Noise {
  public:
    // counter: the position in the text for the coupled rule, else a number that no other draw of the generation has.
    Noise(uint64_t seed, Purpose purpose, uint64_t counter)
        : key_(mix_bits(mix_bits(seed + kGolden + mix_bits((uint64_t) purpose)) + counter)) {}

    uint64_t key() const { return key_; }
    uint64_t bits(int32_t token) const { return token_bits(key_, token); }

    static double uniform(uint64_t bits) {
        return ((double) (bits >> 12) + 0.5) * 0x1p-52;
    }  // (0, 1); one bit less: + 0.5 is exact
    static double gumbel(uint64_t bits) { return -std::log(-std::log(uniform(bits))); }

  private:
    uint64_t key_;
};

inline double uniform(uint64_t seed, Purpose purpose, uint64_t counter) {
    return Noise::uniform(Noise(seed, purpose, counter).bits(0));
}

}  // namespace pmtp
