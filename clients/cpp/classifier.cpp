#include "classifier.hpp"

#include <algorithm>
#include <iterator>
#include <stdexcept>

#include <nlohmann/json.hpp>

namespace {

constexpr const char* kInput = "image";
constexpr const char* kOutput = "probabilities";

Ort::Env make_env() {
  if (OrtGetApiBase()->GetApi(ORT_API_VERSION) == nullptr) {
    throw std::runtime_error(std::string("libonnxruntime ") + OrtGetApiBase()->GetVersionString() +
                             " is older than the headers, which are 1." + std::to_string(ORT_API_VERSION));
  }
  return Ort::Env(ORT_LOGGING_LEVEL_ERROR, "classifier");
}

Ort::Session open_session(const Ort::Env& env, const std::string& path, int num_threads) {
  Ort::SessionOptions options;
  options.SetIntraOpNumThreads(num_threads);
  return Ort::Session(env, path.c_str(), options);
}

std::vector<std::string> read_class_names(const Ort::Session& session) {
  Ort::AllocatorWithDefaultOptions allocator;
  if (std::string(session.GetInputNameAllocated(0, allocator).get()) != kInput) {
    throw std::runtime_error("the model takes no whole picture: it is not a pipeline.onnx");
  }
  const Ort::ModelMetadata metadata = session.GetModelMetadata();
  const Ort::AllocatedStringPtr text = metadata.LookupCustomMetadataMapAllocated("class_names", allocator);
  if (!text) throw std::runtime_error("the file carries no class names: it is not a pipeline.onnx");
  return nlohmann::json::parse(text.get()).get<std::vector<std::string>>();
}

}  // namespace

Classifier::Classifier(const std::string& pipeline_path, int num_threads)
    : env_(make_env()),
      session_(open_session(env_, pipeline_path, num_threads)),
      class_names_(read_class_names(session_)) {}

Answer Classifier::classify(const std::uint8_t* rgb, std::int64_t height, std::int64_t width) const {
  if (height < 1 || width < 1) throw std::runtime_error("a picture without pixels");
  const auto num_bytes = static_cast<std::size_t>(height * width * 3);
  const std::int64_t shape[] = {height, width, 3};
  // ONNX Runtime takes a pointer that is not const, but only reads an input.
  const Ort::Value image = Ort::Value::CreateTensor<std::uint8_t>(
      Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault), const_cast<std::uint8_t*>(rgb), num_bytes, shape,
      std::size(shape));
  const std::vector<Ort::Value> outputs = session_.Run(Ort::RunOptions{nullptr}, &kInput, &image, 1, &kOutput, 1);
  const float* shares = outputs.front().GetTensorData<float>();
  Answer answer;
  answer.probabilities.assign(shares, shares + outputs.front().GetTensorTypeAndShapeInfo().GetElementCount());
  const auto best = std::max_element(answer.probabilities.begin(), answer.probabilities.end());
  answer.confidence = *best;
  answer.label = class_names_.at(static_cast<std::size_t>(best - answer.probabilities.begin()));
  return answer;
}
