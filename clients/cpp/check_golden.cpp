// Runs a run folder's golden images and compares the answers with Python's.
//
//   check_golden RUN_FOLDER
//
// Exit codes: 0 all agree, 1 an answer differs, 2 the folder cannot be read.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "classifier.hpp"

namespace {

constexpr double kTolerance = 1e-3;

std::string read_file(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error(path.string() + ": cannot be read");
  return {std::istreambuf_iterator<char>(file), {}};
}

double largest_difference(const std::vector<double>& expected, const std::vector<float>& found) {
  double largest = 0;
  for (std::size_t k = 0; k < expected.size(); ++k) {
    const double difference = std::abs(expected[k] - found.at(k));
    // std::max would pass over a NaN.
    if (!(difference <= largest)) largest = difference;
  }
  return largest;
}

int check(const std::filesystem::path& folder) {
  const auto golden = nlohmann::json::parse(read_file(folder / "golden" / "golden.json"));
  const Classifier classifier((folder / "pipeline.onnx").string());
  if (golden.at("class_names") != classifier.class_names()) {
    throw std::runtime_error("pipeline.onnx and golden.json name different classes: they are from different runs");
  }
  const auto& images = golden.at("images");
  if (images.empty()) throw std::runtime_error("golden.json names no images");
  int num_wrong = 0;
  for (const auto& entry : images) {
    const auto height = entry.at("height").get<std::int64_t>(), width = entry.at("width").get<std::int64_t>();
    const auto name = entry.at("image").get<std::string>(), label = entry.at("label").get<std::string>();
    const std::string rgb = read_file(folder / "golden" / entry.at("rgb").get<std::string>());
    if (static_cast<std::int64_t>(rgb.size()) != height * width * 3) {
      throw std::runtime_error(name + ": its .rgb file has another size than golden.json says");
    }
    const Answer found = classifier.classify(reinterpret_cast<const std::uint8_t*>(rgb.data()), height, width);
    const double difference =
        largest_difference(entry.at("probabilities").get<std::vector<double>>(), found.probabilities);
    const bool agrees = found.label == label && difference <= kTolerance;
    num_wrong += !agrees;
    std::printf("%s %s: \"%s\" %.4f, expected \"%s\"; largest difference %.1e\n", agrees ? "ok   " : "WRONG",
                name.c_str(), found.label.c_str(), found.confidence, label.c_str(), difference);
  }
  const int num_images = static_cast<int>(images.size());
  std::printf("%d of %d images agree with Python\n", num_images - num_wrong, num_images);
  return num_wrong == 0 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: check_golden RUN_FOLDER\n");
    return 2;
  }
  try {
    return check(argv[1]);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 2;
  }
}
