// A robot on Fast DDS, which knows nothing of Chunkwise: two joints and a camera are published with the names, types
// and QoS of ROS 2, commands are taken.  What it sees is written to the standard output, one line each; it lives until
// its standard input ends.
//
//   peer DOMAIN
//
//   participant GUID ENCLAVE      another participant was discovered
//   node NAME GUID READERS WRITERS   what ros_discovery_info says of it
//   command N V0 V1 ...           a command has come
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <string>
#include <thread>
#include <unistd.h>

#include <fastdds/dds/domain/DomainParticipant.hpp>
#include <fastdds/dds/domain/DomainParticipantFactory.hpp>
#include <fastdds/dds/domain/DomainParticipantListener.hpp>
#include <fastdds/dds/publisher/DataWriter.hpp>
#include <fastdds/dds/publisher/Publisher.hpp>
#include <fastdds/dds/subscriber/DataReader.hpp>
#include <fastdds/dds/subscriber/DataReaderListener.hpp>
#include <fastdds/dds/subscriber/SampleInfo.hpp>
#include <fastdds/dds/subscriber/Subscriber.hpp>
#include <fastdds/dds/topic/TypeSupport.hpp>
#include <fastdds/rtps/transport/UDPv4TransportDescriptor.h>

#include "messagesPubSubTypes.h"

namespace fast = eprosima::fastdds::dds;
namespace rtps = eprosima::fastrtps::rtps;

static std::mutex output;

template <typename... Parts>
static void say(const char* format, Parts... parts)
{
    std::lock_guard<std::mutex> guard(output);
    std::printf(format, parts...);
    std::fflush(stdout);
}

static std::string hex(const uint8_t* bytes, size_t count)
{
    std::string made;
    char two[3];
    for (size_t at = 0; at < count; ++at)
    {
        std::snprintf(two, sizeof two, "%02x", bytes[at]);
        made += two;
    }
    return made;
}

struct Participants : fast::DomainParticipantListener
{
    void on_participant_discovery(fast::DomainParticipant*, rtps::ParticipantDiscoveryInfo&& found) override
    {
        if (found.status != rtps::ParticipantDiscoveryInfo::DISCOVERED_PARTICIPANT)
        {
            return;
        }
        const auto& guid = found.info.m_guid;
        std::string user(found.info.m_userData.begin(), found.info.m_userData.end());
        say("participant %s%s %s\n", hex(guid.guidPrefix.value, 12).c_str(), hex(guid.entityId.value, 4).c_str(),
                user.empty() ? "-" : user.c_str());
    }
};

struct Commands : fast::DataReaderListener
{
    void on_data_available(fast::DataReader* reader) override
    {
        std_msgs::msg::dds_::Float64MultiArray_ message;
        fast::SampleInfo info;
        while (reader->take_next_sample(&message, &info) == ReturnCode_t::RETCODE_OK)
        {
            if (!info.valid_data)
            {
                continue;
            }
            std::string line = "command " + std::to_string(message.data().size());
            for (double value : message.data())
            {
                line += " " + std::to_string(value);
            }
            say("%s\n", line.c_str());
        }
    }
};

struct Graph : fast::DataReaderListener
{
    void on_data_available(fast::DataReader* reader) override
    {
        rmw_dds_common::msg::dds_::ParticipantEntitiesInfo_ message;
        fast::SampleInfo info;
        while (reader->take_next_sample(&message, &info) == ReturnCode_t::RETCODE_OK)
        {
            if (!info.valid_data)
            {
                continue;
            }
            for (const auto& node : message.node_entities_info_seq())
            {
                std::string name(node.node_namespace().c_str());
                name += node.node_name().c_str();
                say("node %s %s %zu %zu\n", name.c_str(), hex(message.gid().data().data(), 16).c_str(),
                        node.reader_gid_seq().size(), node.writer_gid_seq().size());
            }
        }
    }
};

static std_msgs::msg::dds_::Header_ header_now()
{
    auto since = std::chrono::system_clock::now().time_since_epoch();
    auto ns = std::chrono::duration_cast<std::chrono::nanoseconds>(since).count();
    std_msgs::msg::dds_::Header_ header;
    header.stamp().sec(static_cast<int32_t>(ns / 1000000000));
    header.stamp().nanosec(static_cast<uint32_t>(ns % 1000000000));
    header.frame_id("base");
    return header;
}

int main(int count, char** arguments)
{
    if (count != 2)
    {
        std::fprintf(stderr, "usage: peer DOMAIN\n");
        return 2;
    }
    fast::DomainParticipantQos qos;
    qos.name("peer");
    auto udp = std::make_shared<eprosima::fastdds::rtps::UDPv4TransportDescriptor>();
    udp->interfaceWhiteList.emplace_back("127.0.0.1");
    qos.transport().use_builtin_transports = false;  // no shared memory: bytes over a socket, as between two machines
    qos.transport().user_transports.push_back(udp);
    Participants participants;
    auto* participant = fast::DomainParticipantFactory::get_instance()->create_participant(
        std::atoi(arguments[1]), qos, &participants, fast::StatusMask::none());
    if (participant == nullptr)
    {
        std::fprintf(stderr, "no participant\n");
        return 1;
    }

    fast::TypeSupport joint_type(new sensor_msgs::msg::dds_::JointState_PubSubType());
    fast::TypeSupport image_type(new sensor_msgs::msg::dds_::Image_PubSubType());
    fast::TypeSupport array_type(new std_msgs::msg::dds_::Float64MultiArray_PubSubType());
    fast::TypeSupport graph_type(new rmw_dds_common::msg::dds_::ParticipantEntitiesInfo_PubSubType());
    for (auto* type : {&joint_type, &image_type, &array_type, &graph_type})
    {
        type->register_type(participant);
    }
    auto topic = [&](const char* name, const fast::TypeSupport& type)
            {
                return participant->create_topic(name, type.get_type_name(), fast::TOPIC_QOS_DEFAULT);
            };

    auto* subscriber = participant->create_subscriber(fast::SUBSCRIBER_QOS_DEFAULT);
    fast::DataReaderQos reliable;
    reliable.reliability().kind = fast::RELIABLE_RELIABILITY_QOS;
    reliable.history().depth = 10;
    Commands commands;
    subscriber->create_datareader(topic("rt/arm/commands", array_type), reliable, &commands);
    fast::DataReaderQos lasting = reliable;
    lasting.durability().kind = fast::TRANSIENT_LOCAL_DURABILITY_QOS;
    Graph graph;
    subscriber->create_datareader(topic("ros_discovery_info", graph_type), lasting, &graph);

    auto* publisher = participant->create_publisher(fast::PUBLISHER_QOS_DEFAULT);
    fast::DataWriterQos offered;
    offered.reliability().kind = fast::RELIABLE_RELIABILITY_QOS;
    offered.durability().kind = fast::VOLATILE_DURABILITY_QOS;
    offered.publish_mode().kind = fast::ASYNCHRONOUS_PUBLISH_MODE;  // a picture is many packets
    offered.history().depth = 10;
    auto* joints = publisher->create_datawriter(topic("rt/joint_states", joint_type), offered);
    fast::DataWriterQos sensor = offered;
    sensor.reliability().kind = fast::BEST_EFFORT_RELIABILITY_QOS;
    auto* images = publisher->create_datawriter(topic("rt/head/image_raw", image_type), sensor);

    std::atomic<bool> wanted{true};
    std::thread clock([&]()
            {
                sensor_msgs::msg::dds_::JointState_ joint;
                joint.name({"elbow", "gripper", "shoulder"});  // not in the order that the other end wants
                sensor_msgs::msg::dds_::Image_ image;
                image.height(48);
                image.width(64);
                image.encoding("bgr8");
                image.step(64 * 3);
                image.data().resize(64 * 48 * 3);
                for (uint32_t step = 0; wanted; ++step)
                {
                    joint.header(header_now());
                    joint.position({0.2, 0.3, 0.1});
                    joints->write(&joint);
                    image.header(header_now());
                    for (size_t at = 0; at < image.data().size(); at += 3)
                    {
                        image.data()[at] = 10;  // blue
                        image.data()[at + 1] = 20;
                        image.data()[at + 2] = 30;
                    }
                    images->write(&image);
                    std::this_thread::sleep_for(std::chrono::milliseconds(20));
                }
            });
    char byte;
    while (read(0, &byte, 1) > 0)
    {
    }
    wanted = false;
    clock.join();
    participant->delete_contained_entities();
    fast::DomainParticipantFactory::get_instance()->delete_participant(participant);
    return 0;
}
